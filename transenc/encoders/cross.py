"""The cross-encoder: both sentences in one sequence; a pair's similarity is the sigmoid of one logit."""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from transenc.data.tokens import TokenisedPairs
from transenc.encoders.base import PairEncoder, Progress, in_batches
from transenc.encoders.loading import load_backbone, load_parts, refuse
from transenc.errors import InputError
from transenc.model_folder import Description, Source


class Logit(nn.Linear):
    """In fp32 under autocast too: a bf16 logit has three digits, and labels made of it tie."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


class CrossEncoder(PairEncoder):
    """A transformers sequence classifier with one output.

    The head is the family's own (BERT: its pooler, then a linear layer; RoBERTa: a dense layer, then one), as in the
    paper's code, and any version of transformers or sentence-transformers loads the folder.

    Args:
        backbone, tokenizer, max_tokens: as for `PairEncoder`; max_tokens is a pair's.
        symmetric: whether a pair's logit is the mean of (a, b)'s and (b, a)'s. It is kept in config.json, which other
            libraries read without it, as of one order.
    """

    kind: ClassVar[str] = "cross"

    def __init__(self, backbone: nn.Module, tokenizer: Any, max_tokens: int, symmetric: bool):
        super().__init__(backbone, tokenizer, max_tokens, first_only=True)
        self.symmetric = symmetric
        for module in backbone.modules():
            if type(module) is nn.Linear and module.out_features == 1:
                module.__class__ = Logit

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B] logits of B pairs."""
        return self.backbone(**inputs).logits[:, 0].float()

    def to_score(self, raw: Tensor) -> Tensor:
        """The logit's sigmoid, in (0, 1)."""
        return torch.sigmoid(raw)

    def collate(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Tensor]:
        return self.inputs.pairs(pairs, rows, swapped)

    def work(self, pairs: TokenisedPairs) -> int:
        return len(pairs) * (2 if self.symmetric else 1)

    def _similarities(self, pairs: TokenisedPairs, batch_tokens: int, progress: Progress) -> np.ndarray:
        orders = 2 if self.symmetric else 1
        logits = np.empty(orders * len(pairs), dtype=np.float32)  # those of swapped pairs come second
        lengths = np.tile(self.inputs.pair_lengths(*pairs.lengths[pairs.pairs].T), orders)

        def run(group: np.ndarray) -> None:
            inputs = self.inputs.pairs(pairs, group % len(pairs), group >= len(pairs))
            logits[group] = self(self.to_device(inputs)).cpu().numpy()
            progress(len(group))

        in_batches(lengths, batch_tokens, run)
        return logits.reshape(orders, -1).mean(axis=0)

    @classmethod
    def from_source(
        cls,
        source: Source,
        description: Description,
        *,
        new_head: int | None = None,
        layers: int | None = None,
        max_tokens: int | None = None,
        symmetric: bool | None = None,
    ) -> Self:
        """
        Args:
            source, description: the model folder.
            new_head: seed of a fresh head for an encoder that has none; None demands a trained cross-encoder. One that
                has a head keeps it.
            layers: keep only this many first layers; None keeps all.
            max_tokens: tokens a pair is cut to; None is what the folder says.
            symmetric: see the class; None is what the folder says, else one order.

        Raises:
            InputError: it has no head and no new one was requested, or it needs something that is not supported.
        """
        if description.cross:
            refuse(source, description)
        elif new_head is None:
            raise InputError(f"{source.name}: is no cross-encoder (it has no classification head)")
        config, tokenizer, length = load_parts(source, max_tokens, layers, description.lowercase)
        if description.cross and config.num_labels != 1:
            raise InputError(f"{source.name}: its head has {config.num_labels} outputs, and a score is one")
        config.num_labels = 1
        config.transenc_symmetric = description.symmetric if symmetric is None else symmetric
        # What sentence-transformers applies to the logit when it loads the folder.
        config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        head = None if description.cross else new_head
        backbone = load_backbone(AutoModelForSequenceClassification, source, config, head)
        return cls(backbone, tokenizer, length, config.transenc_symmetric).eval()

    def save(self, folder: Path) -> None:
        """A transformers folder, which sentence-transformers' `CrossEncoder` reads as it is."""
        self._save_backbone(folder)
