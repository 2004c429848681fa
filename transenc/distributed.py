"""Several processes as one run: rank 0 runs the loop, the other ranks serve it.

Rank 0 alone reads the configuration, asks the store and writes. It hands a build function that is marked `collective`
to the other ranks, which wait for nothing else. All ranks then run that function on the same artifacts, each on its
shard of the pairs. So ranks cannot disagree about what comes next, and every stage is built once. `torchrun` or Slurm's
`srun` starts the processes.

The messages here are small and go between CPUs (gloo). Gradients are Lightning's.
"""

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed

from transenc.errors import InputError

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # to find one another, and for an all-reduce of gradients
WAIT_TIMEOUT = timedelta(days=1)  # while others work; a rank that is gone closes its connection
COLLECTIVE: dict[str, Callable[..., Any]] = {}
cpu_group: distributed.ProcessGroup | None = None  # of all ranks, on CPUs


def rank() -> int:
    """This process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Processes in this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def launched() -> int | None:
    """The number of processes that `torchrun` or `srun` launched as one run; None without a launcher."""
    number = os.environ.get("WORLD_SIZE" if "RANK" in os.environ else "SLURM_STEP_NUM_TASKS")
    return None if number is None else int(number)


def broadcast(value: Any) -> Any:
    """Rank 0's value, in every rank."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, group=cpu_group)
    return values[0]


def gather(value: Any) -> list[Any]:
    """Every rank's value, by rank, in every rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value, group=cpu_group)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the ranks of a tensor, on the CPU."""
    values = values.float().cpu()
    if size() > 1:
        distributed.all_reduce(values, group=cpu_group)
        values /= size()
    return values


def shard(count: int) -> np.ndarray:
    """This rank's indices of `range(count)`: every `size()`-th, so that all ranks have about the same work."""
    return np.arange(rank(), count, size())


def gather_shards(values: np.ndarray, count: int) -> np.ndarray:
    """The results of all ranks for their shards, [..., their share], as one array [..., count], in every rank."""
    if size() == 1:
        return values
    gathered = np.empty((*values.shape[:-1], count), values.dtype)
    for source, part in enumerate(gather(values)):
        gathered[..., source :: size()] = part
    return gathered


def collective(build: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a stage's build function as one that all ranks run, on the same arguments. Rank 0's return value counts.

    It is called as `build(out, config, progress, *inputs)`. The other ranks show no progress, and write nothing to
    `out`.
    """
    COLLECTIVE[build.__name__] = build

    @functools.wraps(build)
    def call(out: Any, config: Any, progress: Any, *inputs: Any) -> Any:
        broadcast((build.__name__, out, config, inputs))
        return build(out, config, progress, *inputs)

    return call


def serve(progress: Any) -> None:
    """Run what rank 0 sends, until it is done. The functions marked `collective` must have been imported."""

    def next_call() -> Any:
        try:
            return broadcast(None)
        except RuntimeError:  # rank 0 is gone, and has given the reason
            raise SystemExit(1) from None

    while (call := next_call()) is not None:
        name, out, config, inputs = call
        COLLECTIVE[name](out, config, progress, *inputs)


@contextmanager
def group() -> Iterator[None]:
    """The process group of the processes that were launched as one run. At the end rank 0 releases the others.

    Raises:
        InputError: they do not find one another.
    """
    if "RANK" not in os.environ:
        _set_torchrun_variables()
    if missing := [name for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in os.environ]:
        raise InputError(f"RANK is set, but not {', '.join(missing)}; start with torchrun or srun, or unset RANK")
    local = int(os.environ["LOCAL_RANK"])
    gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus and here > gpus:
        raise InputError(
            f"{here} processes on this machine see {gpus} GPUs; start one for each, all GPUs visible to all, or hide"
            " them (CUDA_VISIBLE_DEVICES=) to run on CPUs"
        )
    if (launched() or 1) % here:
        raise InputError(f"{launched()} processes, {here} of them here: every machine needs as many as the others")
    if gpus:
        torch.cuda.set_device(local)
    global cpu_group
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=RENDEZVOUS_TIMEOUT)
        cpu_group = distributed.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    except (distributed.DistError, ValueError) as error:
        raise InputError(f"the {launched()} processes do not find one another: {error}") from None
    try:
        yield
        if rank() == 0:
            with suppress(RuntimeError):  # a helper that is gone has nothing more to do
                broadcast(None)
    finally:
        distributed.destroy_process_group()
        cpu_group = None  # left to the interpreter's end, its threads may abort the process


def _set_torchrun_variables() -> None:
    """Slurm's variables under the names that torch and Lightning know."""
    slurm = os.environ
    os.environ |= {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": re.split(r"\D", slurm["SLURM_STEP_TASKS_PER_NODE"])[0],  # 4(x2): four on each of two nodes
        "MASTER_ADDR": slurm["SLURM_LAUNCH_NODE_IPADDR"],  # of srun, in a batch job the first node
        "MASTER_PORT": str(20_000 + int(slurm["SLURM_JOB_ID"]) % 10_000),
    }


def lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone."""
    from_group = isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return size() > 1 and from_group
