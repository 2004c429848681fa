"""What the two encoders share: one training step, one optimiser, batched scoring, a folder to live in.

Axes: B pairs or sequences in a batch, L tokens, D width, N pairs, S sentences.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.utils.checkpoint import checkpoint

from transenc.data.tokens import TokenisedPairs, count_unknown, number_sentences, tokenise, warn_of_unknown
from transenc.encoders.cpu_layers import speed_up
from transenc.encoders.cuda_graphs import GraphedForward, in_family
from transenc.encoders.cuda_kernels import ATTENTION
from transenc.encoders.inputs import ModelInputs
from transenc.encoders.loading import FP32_ONLY, compute_in_fp32
from transenc.encoders.lora import add_lora, save_adapter
from transenc.encoders.losses import pair_loss
from transenc.errors import InputError, reason
from transenc.model_description import Description, describe
from transenc.model_folder import Source, find


@dataclass(frozen=True)
class OptimizerConfig:
    """The loss and AdamW's settings of a training.

    Attributes:
        loss: "bce", "mse" or "cosent", see `transenc.encoders.losses`.
        learning_rate: the peak learning rate.
        warmup: share of the steps, in [0, 1), over which the learning rate rises from 0. It then falls linearly to 0.
        weight_decay: of matrices only, not of biases and normalisation weights.
    """

    loss: str
    learning_rate: float
    warmup: float
    weight_decay: float


class PairEncoder(pl.LightningModule, ABC):
    """Scores a pair of sentences. Subclasses say how.

    Args:
        backbone: a transformers model.
        tokenizer: its tokenizer.
        max_tokens: length to which a sequence is cut, special tokens included.
        first_only: whether `forward` reads the first token's last hidden state only.
        prompts: what stands before the first and before the second sentence of a pair.
        behind_pairs, special: see `ModelInputs`.
    """

    kind: ClassVar[str]  # "bi" or "cross"
    sequences_per_pair: ClassVar[int]  # that the backbone sees
    unit: ClassVar[str]  # what is cut to `max_tokens`: "sentences" or "pairs"

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: Any,
        max_tokens: int,
        first_only: bool,
        prompts: tuple[str, str] = ("", ""),
        behind_pairs: list[int] | None = None,
        special: bool = True,
    ):
        super().__init__()
        if getattr(getattr(backbone, "config", None), "model_type", None) in FP32_ONLY:  # static embeddings have none
            compute_in_fp32(backbone)
        self.backbone, self.tokenizer, self.max_tokens, self.prompts = backbone, tokenizer, max_tokens, prompts
        accepted = inspect.signature(backbone.forward).parameters
        segments = "token_type_ids" in accepted and "token_type_ids" in tokenizer.model_input_names
        self.inputs = ModelInputs(tokenizer, max_tokens, segments, behind_pairs, special)
        self.optimizer_config: OptimizerConfig | None = None  # set before training
        self.steps = 0  # set before training: of all of it, those of an interrupted run included
        self.micro_batch: int | None = None  # sequences whose activations training holds at once; None: a batch's
        self.cuda_graphs = False  # set before training: whether its steps run as CUDA graphs where they can
        self.graphed: GraphedForward | None = None  # while they do
        self._adapted: Any = None  # peft's model around the backbone, while there is LoRA
        self._first_only = first_only
        self.cut, self._warned = 0, False  # what its calls of `predict` truncated; whether one told of unknown tokens
        self.use_cpu_layers(True)

    # What the two differ in.

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B] float32: a bi-encoder's cosines in [-1, 1], a cross-encoder's logits in R."""

    @abstractmethod
    def to_score(self, raw: Tensor) -> Tensor:
        """[N] outputs of `forward` to [N] scores: a cross-encoder's are in (0, 1), a bi-encoder's in [-1, 1]."""

    @abstractmethod
    def collate(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Tensor]:
        """Inputs of `forward` for B pairs of numbers `rows`, swapped where `swapped` is true: [B, L] tensors for a
        cross-encoder, [2 B, L] for a bi-encoder, first sentences before second ones.
        """

    @abstractmethod
    def _similarities(self, pairs: TokenisedPairs, batch_tokens: int, progress: Callable[[int], Any]) -> np.ndarray: ...

    @abstractmethod
    def work(self, pairs: TokenisedPairs) -> int:
        """Sequences to run through the backbone to score these pairs, as `similarities` reports progress in."""

    @abstractmethod
    def truncated(self, pairs: TokenisedPairs) -> int:
        """How many sentences (bi-encoder) or pairs (cross-encoder) are cut to `max_tokens`."""

    def use_cpu_layers(self, on: bool) -> None:
        """Whether `transenc.encoders.cpu_layers` runs the backbone where it can (the default), or transformers."""
        self._cpu_layers = on
        speed_up(self.backbone, self._first_only, on)

    @property
    def recordable(self) -> bool:
        """Whether CUDA graphs can hold its training steps."""
        return in_family(self.backbone) and self.micro_batch is None

    # Training.

    def add_lora(self, rank: int) -> None:
        """Train LoRA adapters of a rank instead of the backbone's own weights, see `transenc.encoders.lora`."""
        self._adapted = [add_lora(self.backbone, rank)]  # in a list, or its parameters would be registered twice
        self.use_cpu_layers(self._cpu_layers)

    def merge_lora(self) -> None:
        """Add what the adapters learnt to the backbone's weights."""
        (adapted,) = self._adapted
        self.backbone, self._adapted = adapted.merge_and_unload(), None
        self.backbone.requires_grad_(True)
        self.use_cpu_layers(self._cpu_layers)

    def trained_state(self) -> dict[str, Tensor]:
        """The state of what is trained: of an encoder with LoRA its adapters and head, else all."""
        state = self.state_dict()
        if self._adapted is None:
            return state
        return {name: state[name] for name, weight in self.named_parameters() if weight.requires_grad}

    def checkpoint_layers(self) -> None:
        """Keep each layer's input only, and compute the rest again for the gradient (gradient checkpointing).

        Raises:
            InputError: the model does not support it.
        """
        if not getattr(self.backbone, "supports_gradient_checkpointing", False):
            name = type(self.backbone).__name__
            raise InputError(
                f"distill.{self.kind}.gradient_checkpointing: a {name} does not support it; set it to false"
            )
        self.backbone.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self.use_cpu_layers(False)  # they would pass it over
        self.cuda_graphs = False

    def in_micro_batches(self, run: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Tensor:
        """`run(inputs)`, in training by `micro_batch` sequences at a time.

        The activations of a part are dropped and computed again for its gradient, so that memory holds those of one
        part at a time. The gradient is the whole batch's, whatever the loss.
        """
        count = len(inputs["input_ids"])
        if self.micro_batch is None or self.micro_batch >= count or not torch.is_grad_enabled():
            return run(inputs)
        parts = [
            {name: tensor[start : start + self.micro_batch] for name, tensor in inputs.items()}
            for start in range(0, count, self.micro_batch)
        ]
        return torch.cat([checkpoint(run, part, use_reentrant=False) for part in parts])  # type: ignore[list-item]

    def on_train_start(self) -> None:
        if self.cuda_graphs and self.recordable and self.device.type == "cuda":
            self.graphed = GraphedForward(self, self.trainer.gradient_clip_val or 0.0)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """The loss of B pairs against their teacher's labels, [B] float32 in [0, 1]."""
        raw = (self if self.graphed is None else self.graphed)(batch["inputs"])
        with torch.autocast(self.device.type, enabled=False):  # losses in fp32 whatever the backbone runs in
            return self.loss(raw, batch["labels"]) * batch["weight"]

    def loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch, see `transenc.encoders.losses`. Both arguments are [B]."""
        assert self.optimizer_config is not None, "set optimizer_config before training"
        return pair_loss(self.optimizer_config.loss, raw, labels, self.to_score)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with a linear warm-up and a linear fall to 0 over `steps`."""
        assert self.optimizer_config is not None, "set optimizer_config before training"
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]  # biases, normalisation weights
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.optimizer_config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=self.optimizer_config.learning_rate,
            fused=True,
        )
        steps, rise = self.steps, int(self.optimizer_config.warmup * self.steps)

        def factor(step: int) -> float:
            return (step + 1) / (rise + 1) if step < rise else max(0.0, (steps - step) / max(1, steps - rise))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm. Lightning's own refuses a fused optimiser under autocast, though only fp16 scales gradients."""
        if not gradient_clip_val or self.graphed is not None:  # which has clipped them
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if self.device.type == "cpu" and norm <= gradient_clip_val:
            return  # torch would multiply all gradients by 1; elsewhere the comparison would wait for the device
        torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        if self.graphed is None:  # which writes its gradients over those of the step before
            optimizer.zero_grad()

    # Scoring.

    @contextmanager
    def scoring(self, precision: str) -> Iterator[None]:
        """In eval mode, without gradients, in a precision as `similarities` takes it."""
        training, bf16 = self.training, precision == "bf16-mixed"
        self.eval()
        try:
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
            with sdpa_kernel(ATTENTION), torch.inference_mode(), autocast:
                yield
        finally:
            self.train(training)

    def similarities(
        self,
        pairs: TokenisedPairs,
        batch_tokens: int = 4096,
        progress: Callable[[int], Any] = lambda count: None,
        precision: str = "32-true",
    ) -> np.ndarray:
        """Similarities of all pairs, in eval mode. A symmetric cross-encoder's are the means of both orders.

        Batches hold sequences of similar length, so little is padding; what else is in a batch does not change a score
        beyond rounding.

        Args:
            pairs: N tokenised pairs.
            batch_tokens: padded tokens in a batch, at most (a longer sequence is a batch of its own).
            progress: called with the number of sequences just done; there are `work(pairs)`.
            precision: "32-true", or "bf16-mixed": matrix products in bf16, cosines and logits in fp32 as ever.

        Returns:
            [N] float32: cosines or logits; `to_score` makes scores of them.
        """
        with self.scoring(precision):
            return self._similarities(pairs, batch_tokens, progress)

    def predict(self, pairs: list[tuple[str, str]], batch_tokens: int = 4096) -> np.ndarray:
        """Scores of pairs of plain sentences, [N] float32: a bi-encoder's in [-1, 1], a cross-encoder's in (0, 1).
        Whitespace around a sentence is removed first.
        """
        sentences, numbers = number_sentences([(first.strip(), second.strip()) for first, second in pairs])
        tokens = self.tokenise(sentences, numbers)
        if not self._warned:
            self._warned = warn_of_unknown(count_unknown(tokens.ids, self.tokenizer), len(tokens.ids), "pairs")
        self.cut += self.truncated(tokens)
        return self.to_score(torch.from_numpy(self.similarities(tokens, batch_tokens))).numpy()

    def tokenise(self, sentences: list[str], pairs: np.ndarray) -> TokenisedPairs:
        """Pairs of plain sentences, [N, 2] numbers of them, with this encoder's prompts."""
        return tokenise(sentences, pairs, self.tokenizer, prompts=self.prompts)

    def to_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}

    # Living in a folder.

    @classmethod
    @abstractmethod
    def from_source(cls, source: Source, description: Description, **settings: Any) -> Self: ...

    @classmethod
    def load(cls, name: str | Path | Source, **settings: Any) -> Self:
        """Load from a folder, a package or the hub (`transenc.model_folder`), in fp32 and eval mode.

        Args:
            name: of the model, or where it has been found.
            settings: see the subclass's `from_source`.

        Raises:
            InputError: there is no such model, or it is of the other kind.
        """
        source = name if isinstance(name, Source) else find(str(name))
        description = describe(source)
        try:
            encoder = cls.from_source(source, description, **settings)
        except InputError:
            raise
        except BaseException as error:  # whatever the libraries stumble over in files of others
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Rust's
                raise  # a signal
            raise InputError(
                f"{source.name}: its files make no encoder ({reason(error)}); copy or save them again"
            ) from error
        encoder._check_forward(source.name)
        return encoder

    @torch.no_grad()
    def _check_forward(self, name: str) -> None:
        """Score a pair alone and beside a longer one: padding must not change a score, on neither side."""
        try:
            pairs = self.tokenise(["a b a a b", "b b a b a", "a b a b a b a b", "b b a"], np.array([[0, 1], [2, 3]]))
            alone, together = (self(self.collate(pairs, rows, rows < 0)) for rows in (np.arange(1), np.arange(2)))
            on_left = self._padded_on_left(pairs) if self.tokenizer.padding_side == "left" else together
        except Exception as error:  # whatever the library stumbles over in a configuration of others
            raise InputError(f"{name}: its config.json makes no encoder that runs ({reason(error)})") from error
        if (wrong := together[~together.isfinite()]).numel():
            raise InputError(f"{name}: scores a pair {wrong[0].item()}; copy or save its files again")
        if not torch.allclose(alone, together[:1], rtol=1e-3, atol=1e-3):
            raise InputError(
                f"{name}: its scores depend on what else is in a batch ({alone[0]:.3f} alone, {together[0]:.3f} beside"
                f" a longer pair); {self.backbone.config.model_type} is not supported"
            )
        if not torch.allclose(on_left, together, rtol=1e-3, atol=1e-3):
            raise InputError(
                f"{name}: its tokenizer pads on the left, which changes its scores; set padding_side=right in"
                " tokenizer_config.json"
            )

    def _padded_on_left(self, pairs: TokenisedPairs) -> Tensor:
        """[N] cosines or logits of all pairs in one batch that is padded on the left."""
        inputs = self.collate(pairs, np.arange(len(pairs)), np.zeros(len(pairs), dtype=bool))
        padding = (inputs["attention_mask"] == 0).sum(1).tolist()
        self.use_cpu_layers(False)  # they read padding on the right only
        raw = self({name: torch.stack(list(map(torch.roll, rows, padding))) for name, rows in inputs.items()})
        self.use_cpu_layers(True)
        return raw

    @property
    def facts(self) -> dict[str, Any]:
        """What a person may want to know of it: prompts, length, layers and parameters."""
        layers = getattr(getattr(self.backbone, "config", None), "num_hidden_layers", 0)
        parameters = sum(weight.numel() for weight in self.parameters())
        return {"prompts": self.prompts, "max_tokens": self.max_tokens, "layers": layers, "parameters": parameters}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a complete, public model folder."""

    @abstractmethod
    def _save_modules(self, folder: Path) -> None:
        """Write what sentence-transformers reads beside the backbone."""

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA adapter as a model folder, whose adapter_config.json has yet to name the base model."""
        save_adapter(self._adapted[0], folder)
        self._save_tokenizer(folder)
        self._save_modules(folder)

    def _save_backbone(self, folder: Path, more: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """The backbone's weights, and `more` by name, its configuration and tokenizer."""
        self.backbone.save_pretrained(folder, state_dict={**self.backbone.state_dict(), **more})  # type: ignore[operator]
        self._save_tokenizer(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        self.tokenizer.model_max_length = self.max_tokens
        self.tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        # Traces of the machine it was loaded on, and of code that its source came with.
        for key in ("is_local", "local_files_only", "name_or_path", "auto_map"):
            config.pop(key, None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")
