"""Several processes as one run: rank 0 is the run, the others help where it takes long.

Rank 0 goes through the loop as if it were alone: it alone reads the configuration, asks the store, writes. A build that
is marked `together` it hands to the other ranks as well, which wait for nothing else; all then run the same function on
the same artifacts, each on its share of the pairs. So ranks cannot come to differ about what is to be done, and every
stage is built once. `torchrun` or Slurm's `srun` starts the processes.

What is exchanged here is small and goes between CPUs (gloo); gradients are Lightning's.
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

MEETING = timedelta(minutes=10)  # for all to find one another, and for an exchange of gradients
PATIENCE = timedelta(days=1)  # of those who wait for rank 0; one that is gone shows at once, by its closed connection
TOGETHER: dict[str, Callable[..., Any]] = {}
talk: distributed.ProcessGroup | None = None  # the ranks, between CPUs


def rank() -> int:
    """This process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Processes in this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def started() -> int | None:
    """How many processes `torchrun` or `srun` started as one; None where none of them did."""
    number = os.environ.get("WORLD_SIZE" if "RANK" in os.environ else "SLURM_STEP_NUM_TASKS")
    return None if number is None else int(number)


def share(value: Any) -> Any:
    """Rank 0's value, in every rank."""
    if size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, group=talk)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every rank's value, by rank, in every rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value, group=talk)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over the ranks of a tensor, on the CPU."""
    values = values.float().cpu()
    if size() > 1:
        distributed.all_reduce(values, group=talk)
        values /= size()
    return values


def own(count: int) -> np.ndarray:
    """This rank's share of `range(count)`: every `size()`-th, so that all ranks have about the same work."""
    return np.arange(rank(), count, size())


def united(values: np.ndarray, count: int) -> np.ndarray:
    """What every rank made of its `own` share, as one array of `count`, in every rank."""
    if size() == 1:
        return values
    whole = np.empty(count, values.dtype)
    for place, part in enumerate(gather(values)):
        whole[place :: size()] = part
    return whole


def together(build: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a stage's build function as one that all ranks run, on the same arguments; what rank 0 returns counts.

    It is called as `build(out, config, watch, *inputs)`; the others watch nothing, and write nothing to `out`.
    """
    TOGETHER[build.__name__] = build

    @functools.wraps(build)
    def call(out: Any, config: Any, watch: Any, *inputs: Any) -> Any:
        share((build.__name__, out, config, inputs))
        return build(out, config, watch, *inputs)

    return call


def help_out(watch: Any) -> None:
    """Be one of the other ranks, until rank 0 is through. What is marked `together` must have been imported."""

    def next_call() -> Any:
        try:
            return share(None)
        except RuntimeError:  # rank 0 is gone, and has said why
            raise SystemExit(1) from None

    while (call := next_call()) is not None:
        name, out, config, inputs = call
        TOGETHER[name](out, config, watch, *inputs)


@contextmanager
def group() -> Iterator[None]:
    """Hold the processes that were started together as one, here; rank 0 tells the others at the end.

    Raises:
        InputError: they do not find one another.
    """
    if "RANK" not in os.environ:
        _as_torchrun_would()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus and here > gpus:
        raise InputError(
            f"{here} processes on this machine see {gpus} GPUs; start one for each, all GPUs visible to all, or hide"
            " them (CUDA_VISIBLE_DEVICES=) to run on CPUs"
        )
    if (started() or 1) % here:
        raise InputError(f"{started()} processes, {here} of them here: every machine needs as many as the others")
    if gpus:
        torch.cuda.set_device(local)
    global talk
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=MEETING)
        talk = distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (distributed.DistError, ValueError) as error:
        raise InputError(f"the {started()} processes do not find one another: {error}") from None
    try:
        yield
        if rank() == 0:
            with suppress(RuntimeError):  # a helper that is gone has nothing more to do
                share(None)
    finally:
        distributed.destroy_process_group()
        talk = None  # left to the interpreter's end, its threads may abort the process


def _as_torchrun_would() -> None:
    """Slurm's own variables under the names that torch and Lightning know."""
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
    told = isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return size() > 1 and told
