"""Which of torch's kernels run on a GPU."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger("transenc")

# Without cuDNN's, which takes some 0.2 s to prepare for a new shape, forward and backward each. Shapes vary here.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def reproducible(accelerator: str, strict: bool) -> Iterator[None]:
    """On a GPU, kernels that give the same bits each time, where torch has them.

    Args:
        accelerator: what is trained on. A CPU's kernels are left alone.
        strict: whether attention has to use them too, and an operation that has none is an error.
    """
    if accelerator == "cpu":
        yield
        return
    settings = torch.utils.deterministic
    before, filled = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    try:
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import a compiler
        if not multiplies():
            torch.set_deterministic_debug_mode("default")
            log.warning(
                "torch multiplied matrices on the GPU before transenc was imported, so that a resumed run may end in"
                " other bytes; set CUBLAS_WORKSPACE_CONFIG=:4096:8 before you start Python"
            )
        elif not strict:
            torch.set_deterministic_debug_mode("warn")
        settings.fill_uninitialized_memory = False  # it would cost time, and nothing here reads what was not written
        with sdpa_kernel(ATTENTION):
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        settings.fill_uninitialized_memory = filled


def multiplies() -> bool:
    """Whether torch multiplies matrices on the GPU in deterministic mode: `transenc/__init__.py` came in time."""
    try:
        torch.eye(2, device="cuda") @ torch.eye(2, device="cuda")
    except RuntimeError:
        return False
    return True
