"""Data parallel training by predictive coding: two processes, one gradient.

Run it as it is, and it starts both processes; or run it under
`torchrun --nproc-per-node 2`. DistributedDataParallel averages .grad over the
processes as it does after loss.backward().
"""

import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import pcnotes as pc

rule = pc.FixedPrediction()


def make():
    torch.manual_seed(0)
    layers = nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(32, 4)).double()


def work(rank, size, meeting):
    """What each process does with its own part of the batch."""
    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", meeting, wait, size, rank)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 16, generator=generator).double()
    y = torch.randint(4, (64,), generator=generator)
    mine = torch.arange(64).chunk(size)[rank]

    model = DistributedDataParallel(make())
    # In place of loss.backward():
    pc.backward(model, lambda: cross_entropy(model(x[mine]), y[mine]), rule)

    alone = make()  # backpropagation in one process on the joined batch
    cross_entropy(alone(x), y).backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in alone.parameters()])
    error = (ours - theirs).norm() / theirs.norm()
    if rank == 0:
        print(f"{rule} in {size} processes: relative error against")
        print(f"backpropagation in one on the joined batch {error:.1g}")
    assert error < 1e-12, f"process {rank} has another gradient"
    dist.destroy_process_group()


def main():
    if "RANK" in os.environ:  # torchrun started us
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        work(int(rank), int(size), "env://")
        return
    start = "fork" if sys.platform == "linux" else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        mp.start_processes(work, (2, meeting), nprocs=2, start_method=start)


if __name__ == "__main__":
    main()
