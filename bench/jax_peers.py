"""How the packages written in JAX run a perceptron; imported only where they are.

Their steps include the optimizer's, compiled together; so does their baseline. Calls
end when the device is done.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .clock import Call
from .models import Case
from .rules import STEP


def batch(case: Case) -> tuple[jax.Array, jax.Array]:
    """The inputs, and the labels one-hot."""
    assert case.x is not None and case.y is not None
    labels = jnp.asarray(case.y.cpu().numpy())
    return jnp.asarray(case.x.cpu().numpy()), jax.nn.one_hot(labels, case.widths[-1])


def jpc(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """Its training step by Euler's method, and with its defaults."""
    import diffrax

    x, y = batch(case)
    widths = case.widths
    model = module.make_mlp(
        jax.random.PRNGKey(0),
        input_dim=widths[0],
        width=widths[1],
        depth=len(widths) - 1,
        output_dim=widths[-1],
        act_fn="tanh",
        use_bias=True,
    )
    optimizer = optax.sgd(1e-3)
    state = optimizer.init((eqx.filter(model, eqx.is_array), None))

    def loss(layers: Any) -> jax.Array:
        h = x
        for layer in layers:
            h = jax.vmap(layer)(h)
        return ((h - y) ** 2).mean()

    @eqx.filter_jit
    def learn(layers: Any, state: Any) -> Any:
        gradient = eqx.filter_grad(loss)(layers)
        update, state = optimizer.update((gradient, None), state)
        return eqx.apply_updates(layers, update[0]), state

    def step(**options: Any) -> Call:
        return lambda: jax.block_until_ready(
            eqx.filter(
                module.make_pc_step(
                    model, optimizer, state, output=y, input=x, **options
                ),
                eqx.is_array,
            )
        )

    euler = {
        "ode_solver": diffrax.Euler(),
        "max_t1": steps,
        "dt": 1,
        "stepsize_controller": diffrax.ConstantStepSize(),
    }
    return {
        "bp": lambda: jax.block_until_ready(
            eqx.filter(learn(model, state), eqx.is_array)
        ),
        "JPC strict": step(**euler),
        "JPC defaults": step(),
    }


def pcx(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """Values descend from the feed-forward pass, then the weights learn."""
    import pcx.functional as pxf
    import pcx.nn as pxnn
    import pcx.predictive_coding as pxc
    import pcx.utils as pxu

    x, y = batch(case)

    class Perceptron(pxc.EnergyModule):
        """A layer, then the value that stands for its output, and so on."""

        def __init__(self) -> None:
            super().__init__()
            pairs = zip(case.widths, case.widths[1:], strict=False)
            self.layers = [pxnn.Linear(a, b) for a, b in pairs]
            self.values = [pxc.Vode() for _ in self.layers]
            self.values[-1].h.frozen = True

        def __call__(self, h: Any, label: Any = None) -> Any:
            last = len(self.layers) - 1
            for k, (layer, value) in enumerate(
                zip(self.layers, self.values, strict=True)
            ):
                h = value(layer(h if k == 0 else jnp.tanh(h)))
                if k == last and label is not None:
                    value.set("h", label)
            return self.values[-1].get("u")

    per_sample = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))
    weights = pxu.M(pxnn.LayerParam)
    free = pxu.M_hasnot(pxc.VodeParam, frozen=True)

    @pxf.vmap(per_sample, in_axes=(0, 0), out_axes=0)
    def forward(x: Any, y: Any, *, model: Any) -> Any:
        return model(x, y)

    @pxf.vmap(per_sample, in_axes=(0,), out_axes=None, axis_name="sample")
    def energy(x: Any, *, model: Any) -> Any:
        model(x)
        return jax.lax.psum(model.energy(), "sample")

    @pxf.vmap(per_sample, in_axes=(0, 0), out_axes=None, axis_name="sample")
    def loss(x: Any, y: Any, *, model: Any) -> Any:
        return jax.lax.pmean(((model(x) - y) ** 2).sum(), "sample")

    model = Perceptron()
    learn = pxu.Optim(lambda: optax.sgd(1e-3), weights(model))
    descend = pxu.Optim(lambda: optax.sgd(STEP))

    @pxf.jit()
    def predictive_coding(x: Any, y: Any, *, model: Any, learn: Any, descend: Any):
        model.train()
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            forward(x, y, model=model)
        descend.init(free(model))
        for _ in range(steps):
            with pxu.step(model, clear_params=pxc.VodeParam.Cache):
                _, found = pxf.value_and_grad(free.to([False, True]))(energy)(
                    x, model=model
                )
            descend.step(model, found["model"])
        descend.clear()
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            _, found = pxf.value_and_grad(weights.to([False, True]))(energy)(
                x, model=model
            )
        learn.step(model, found["model"], scale_by=1 / len(x))

    @pxf.jit()
    def backpropagation(x: Any, y: Any, *, model: Any, learn: Any):
        model.train()
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            _, found = pxf.value_and_grad(weights.to([False, True]))(loss)(
                x, y, model=model
            )
        learn.step(model, found["model"])

    def done() -> None:
        jax.block_until_ready([layer.nn.weight.get() for layer in model.layers])

    def baseline() -> None:
        backpropagation(x, y, model=model, learn=learn)
        done()

    def step() -> None:
        predictive_coding(x, y, model=model, learn=learn, descend=descend)
        done()

    return {"bp": baseline, "PCX strict": step}
