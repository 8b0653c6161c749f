"""Two processes with half of the batch each get the gradient of one with all of it.

PyTorch's own wrappers do the work; nothing here is home-made. The processes are this
file, started once for all tests; each writes down what it found, `expected` is computed
by `loss.backward()` of one process on the joined batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from every_rule import EQUAL_TO_BP, EVERY
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import pcnotes as pc

WORLD = 2
SECONDS = 100


def network(norm=False):
    torch.manual_seed(7)
    middle = nn.BatchNorm1d(6) if norm else nn.Linear(6, 6)
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), middle, nn.Tanh(), nn.Linear(6, 2)
    ).double()


def batch(rank=None):
    """The joined batch, or a process's share of it."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double()
    return x if rank is None else x.chunk(WORLD)[rank]


def loss(net, x):
    return net(x).square().mean()


def gradients(net):
    """As plain tensors, whole even where parameters are sharded."""
    found = []
    for p in net.parameters():
        g = p.grad
        if g is not None and hasattr(g, "full_tensor"):
            g = g.full_tensor()
        found.append(None if g is None else g.detach().clone())
    return found


def joined():
    """What backpropagation finds in one process on the joined batch."""
    net = network()
    loss(net, batch()).backward()
    return gradients(net)


# What each process does, by the name of the test that reads the result.


def ddp_equals_joined(rank):
    for rule in EVERY:
        net = DistributedDataParallel(network())
        pc.backward(net, lambda net=net: loss(net, batch(rank)), rule)
        yield str(rule), gradients(net)


def ddp_accumulates(rank, **options):
    """In buckets so small that they are rebuilt after the first step."""
    net = DistributedDataParallel(network(), bucket_cap_mb=1e-4, **options)
    for _ in range(3):
        pc.backward(net, lambda: loss(net, batch(rank)))
    yield "", gradients(net)


def ddp_accumulates_in_views(rank):
    yield from ddp_accumulates(rank, gradient_as_bucket_view=True)


def ddp_no_sync(rank):
    first, second = batch(rank).chunk(2)
    for rule in EQUAL_TO_BP:
        net = DistributedDataParallel(network())
        with net.no_sync():
            pc.backward(net, lambda n=net: loss(n, first), rule, gradient=0.5)
        yield f"before {rule}", gradients(net)
        pc.backward(net, lambda n=net: loss(n, second), rule, gradient=0.5)
        yield f"after {rule}", gradients(net)


def ddp_trains(rank):
    """Adam, clipping and batch norm; what both processes end with must be the same."""
    net = DistributedDataParallel(network(norm=True))
    plain = DistributedDataParallel(network(norm=True))
    for wrapped, rule in ((net, pc.Exact()), (plain, None)):
        optimizer = torch.optim.Adam(wrapped.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            if rule is None:
                loss(wrapped, batch(rank)).backward()
            else:
                pc.backward(wrapped, lambda w=wrapped: loss(w, batch(rank)), rule)
            nn.utils.clip_grad_norm_(wrapped.parameters(), 0.5)
            optimizer.step()
    yield "ours", [t.detach().clone() for t in net.state_dict().values()]
    yield "theirs", [t.detach().clone() for t in plain.state_dict().values()]


def ddp_hook(rank):
    net = DistributedDataParallel(network())
    net.register_comm_hook(None, default_hooks.allreduce_hook)
    pc.backward(net, lambda: loss(net, batch(rank)))
    yield "", gradients(net)


def ddp_after_infer_and_compare(rank):
    net = DistributedDataParallel(network())
    for _ in pc.infer(net, lambda: loss(net, batch(rank)), pc.Strict(0.01, 2)):
        pass
    pc.compare(net, lambda: loss(net, batch(rank)), [pc.ZIL()])
    yield "untouched", gradients(net)
    pc.backward(net, lambda: loss(net, batch(rank)))
    yield "ours", gradients(net)
    net.zero_grad()
    loss(net, batch(rank)).backward()
    yield "theirs", gradients(net)


def ddp_refusals(rank):
    for option in ("static_graph", "find_unused_parameters"):
        net = DistributedDataParallel(network(), **{option: True})
        yield option, said(lambda net=net: pc.backward(net, lambda: loss(net, batch())))


def sharded(units):
    net = network()
    mesh = init_device_mesh("cpu", (WORLD,))
    for module in units(net):
        fully_shard(module, mesh=mesh)
    return net


def fsdp_refusals(rank):
    wrapped = {
        "each layer": sharded(lambda net: [net[0], net[2], net[4], net]),
        "the whole": sharded(lambda net: [net]),
        "of old": FullyShardedDataParallel(network(), device_id=torch.device("cpu")),
    }
    for name, net in wrapped.items():
        yield name, said(lambda net=net: pc.backward(net, lambda: loss(net, batch())))


def said(call):
    """The exception that a call ends with, in words."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


CASES = [
    ddp_equals_joined,
    ddp_accumulates,
    ddp_accumulates_in_views,
    ddp_no_sync,
    ddp_trains,
    ddp_hook,
    ddp_after_infer_and_compare,
    ddp_refusals,
    fsdp_refusals,
]


def work(rank, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    found = {}
    for case in CASES:
        try:
            found[case.__name__] = dict(case(rank))
        except Exception as error:
            found[case.__name__] = error
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each process found, by case."""
    folder = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join(p for p in sys.path if p)
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        pytest.fail("\n".join(said))
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(WORLD)]


@pytest.fixture
def of(results):
    def read(case):
        for found in results:
            if isinstance(found[case.__name__], Exception):
                raise found[case.__name__]
        return [found[case.__name__] for found in results]

    return read


def assert_all(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", EQUAL_TO_BP, ids=str)
def test_two_processes_get_the_gradient_of_one_on_the_joined_batch(of, rule):
    for found in of(ddp_equals_joined):
        assert_all(found[str(rule)], joined())


@pytest.mark.parametrize("rule", EVERY[len(EQUAL_TO_BP) :], ids=str)
def test_rules_that_are_not_linear_average_what_each_process_finds_alone(of, rule):
    """A mean over samples is a different loss on half of them: β is per process."""
    alone = []
    for rank in range(WORLD):
        net = network()
        pc.backward(net, lambda net=net, r=rank: loss(net, batch(r)), rule)
        alone.append(gradients(net))
    mean = [sum(parts) / WORLD for parts in zip(*alone, strict=True)]
    for found in of(ddp_equals_joined):
        assert_all(found[str(rule)], mean)


@pytest.mark.parametrize("case", [ddp_accumulates, ddp_accumulates_in_views])
def test_gradients_accumulate_in_buckets_and_in_views_of_them(of, case):
    for found in of(case):
        assert_all(found[""], [3 * g for g in joined()])


@pytest.mark.parametrize("rule", EQUAL_TO_BP, ids=str)
def test_no_sync_waits_for_the_last_of_the_small_batches(of, rule):
    first, second = of(ddp_no_sync)
    assert not torch.equal(first[f"before {rule}"][0], second[f"before {rule}"][0])
    for found in (first, second):
        assert_all(found[f"after {rule}"], joined())


def test_weights_and_statistics_are_those_of_backpropagation(of):
    for found in of(ddp_trains):
        for a, b in zip(found["ours"], found["theirs"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_communication_hooks_are_used(of):
    for found in of(ddp_hook):
        assert_all(found[""], joined())


def test_infer_and_compare_leave_the_reducer_as_it_was(of):
    for found in of(ddp_after_infer_and_compare):
        assert all(g is None for g in found["untouched"])
        assert_all(found["ours"], joined())
        assert_all(found["theirs"], joined())


@pytest.mark.parametrize("option", ["static_graph", "find_unused_parameters"])
def test_wrappers_that_walk_the_graph_are_refused(of, option):
    for found in of(ddp_refusals):
        assert "would not be synchronised" in found[option]


def test_fully_sharded_modules_are_refused_with_a_way_on(of):
    for found in of(fsdp_refusals):
        assert len(found) == 3
        assert all("DistributedDataParallel works" in words for words in found.values())


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
