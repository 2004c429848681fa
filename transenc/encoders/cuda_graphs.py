"""A training step's forward and backward pass as CUDA graphs, two for each shape of a batch.

A step on a GPU is a thousand small kernels, which Python launches more slowly than the GPU runs them. A graph launches
all of its kernels at once. It reads and writes the same memory each time: a batch is copied to where its graph reads,
and the gradients are written to where they always are.

Axes: B sequences, L tokens in the longest.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from transenc.errors import InputError, reason

# Model types that were recorded on a GPU. MPNet and DeBERTa copy a number from the CPU in each pass: no graph can.
FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "modernbert", "qwen3")
STEP = 16  # tokens: with graphs for every length, recording would take longer than it saves


def in_family(backbone: Any) -> bool:
    """Whether its passes can be recorded."""
    return hasattr(backbone, "config") and backbone.config.model_type in FAMILY


class GraphedForward:
    """An encoder's `forward` in training, by graphs. Its backward pass also clips the gradients.

    All graphs share the memory of activations, so a batch's backward pass has to come before the next batch's forward
    pass.

    Args:
        encoder: a `PairEncoder` in training mode, on a GPU. Its weights and gradients have to stay where they are.
        clip: maximum norm of the gradients; 0: no clipping.
    """

    def __init__(self, encoder: Any, clip: float):
        self.encoder, self.clip = encoder, clip
        self.weights = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        self.anchor = torch.zeros(1, device=encoder.device, requires_grad=True)  # so that autograd asks for a gradient
        self.recorder = Recorder()
        self.passes: dict[tuple[int, int], _Passes] = {}

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """As the encoder's `forward`.

        Raises:
            InputError: its passes cannot be recorded.
        """
        count, longest = inputs["input_ids"].shape
        shape = count, min(rounded(longest), self.encoder.max_tokens)
        passes = self.passes.get(shape) or _Passes({name: tensor.new_empty(shape) for name, tensor in inputs.items()})
        for name, tensor in inputs.items():
            passes.inputs[name][:, :longest] = tensor
            passes.inputs[name][:, longest:] = self.encoder.inputs.pad if name == "input_ids" else 0
        if shape not in self.passes:
            try:
                passes.record(self)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                family, cause = self.encoder.backbone.config.model_type, error.__context__ or error
                raise InputError(
                    f"trainer.cuda_graphs: a {family} cannot be recorded ({reason(cause)}); set it to false"
                ) from error
            self.passes[shape] = passes
        return _Replay.apply(self.anchor, passes)  # type: ignore[no-any-return]


def rounded(length: int) -> int:
    """The next multiple of `STEP`, or of an eighth of the power of two below."""
    step = max(STEP, 2 ** (length.bit_length() - 4))
    return -(-length // step) * step


class _Passes:
    """The two graphs of one shape.

    Args:
        inputs: where they read a batch.
    """

    def __init__(self, inputs: dict[str, Tensor]):
        self.inputs = inputs

    def record(self, graphed: GraphedForward) -> None:
        encoder, device = graphed.encoder, graphed.encoder.device
        pairs = len(self.inputs["input_ids"]) // encoder.sequences_per_pair
        self.raw, self.gradient = (torch.zeros(pairs, device=device) for _ in range(2))
        dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        result: Tensor | None = None
        leaves: dict[str, Tensor] = {}

        def forward() -> None:
            nonlocal result, leaves
            # Leaves of its own, as autograd keeps the stream on which a parameter was first used.
            leaves = {name: weight.detach().requires_grad_() for name, weight in graphed.weights.items()}
            with torch.autocast(device.type, dtype, enabled, cache_enabled=False):  # each step casts other weights
                result = functional_call(encoder, leaves, (self.inputs,))
            self.raw.copy_(result.detach())

        def backward() -> None:
            nonlocal result
            assert result is not None
            with torch.autocast(device.type, enabled=False):  # as Lightning calls `backward`
                found = torch.autograd.grad(result, list(leaves.values()), self.gradient, allow_unused=True)
            result = None  # what it held is free for other graphs
            for weight, gradient in zip(graphed.weights.values(), found, strict=True):
                if gradient is None:
                    weight.grad = None  # the optimiser passes over it
            kept = [weight.grad for weight in graphed.weights.values() if weight.grad is not None]
            torch._foreach_copy_(kept, [gradient for gradient in found if gradient is not None])
            if graphed.clip:
                norm = torch.nn.utils.get_total_norm(kept)
                torch.nn.utils.clip_grads_with_norm_(graphed.weights.values(), graphed.clip, norm)

        self.forward, self.backward = graphed.recorder.record(forward, backward)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, passes: _Passes) -> Tensor:
        ctx.passes = passes
        passes.forward()
        return passes.raw.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        ctx.passes.gradient.copy_(gradient)
        ctx.passes.backward()
        return None, None


class Recorder:
    """Makes CUDA graphs that share memory."""

    def __init__(self) -> None:
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def record(self, *runs: Callable[[], None]) -> Iterable[Callable[[], None]]:
        """Calls each of the runs twice. What comes back runs it again, on the same memory."""
        random = torch.cuda.get_rng_state()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # libraries set themselves up in a first call, which no graph can hold
            for run in runs:
                run()
        torch.cuda.current_stream().wait_stream(self.stream)
        graphs = [torch.cuda.CUDAGraph() for _ in runs]
        for run, graph in zip(runs, graphs, strict=True):
            with torch.cuda.graph(graph, self.pool, self.stream):
                run()
        torch.cuda.set_rng_state(random)  # a training draws the same numbers, however many graphs are made on the way
        return [graph.replay for graph in graphs]
