"""The bi-encoder: each sentence on its own into a vector; a pair's similarity is the cosine of two vectors."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from transenc.data.tokens import TokenisedPairs, tokenise
from transenc.encoders.base import PairEncoder, Progress, in_batches
from transenc.encoders.loading import load_backbone, load_parts, refuse
from transenc.errors import InputError
from transenc.model_folder import Description, Source

CENTRING_SENTENCES = 10_000  # sentences at most that a mean vector is taken over
BLOCK_PAIRS = 1 << 16  # pairs whose vectors are held at once: twice 0.4 GB where all sentences differ and D is 768


class BiEncoder(PairEncoder):
    """A transformers encoder, pooled.

    Args:
        backbone, tokenizer, max_tokens: as for `PairEncoder`; max_tokens is a sentence's.
        pooling: "cls", the first token's last hidden state (before any pooler layer), or "mean", their mean.
    """

    kind: ClassVar[str] = "bi"

    def __init__(self, backbone: torch.nn.Module, tokenizer: Any, max_tokens: int, pooling: str):
        super().__init__(backbone, tokenizer, max_tokens, first_only=pooling == "cls")
        self.pooling = pooling
        # A pooler is not used here, and unused weights stop training in several processes. It is kept aside for `save`.
        self._pooler = [getattr(backbone, "pooler", None)]
        if self._pooler[0] is not None:
            backbone.pooler = None

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B, D] float32 sentence embeddings of length 1."""
        return F.normalize(self.pool(inputs), dim=-1)

    def pool(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B, D] float32 sentence embeddings as they come."""
        hidden = self.backbone(**inputs).last_hidden_state  # [B, L, D]
        with torch.autocast(self.device.type, enabled=False):
            if self.pooling == "cls":
                return hidden[:, 0].float()
            mask = inputs["attention_mask"][:, :, None].float()
            return (hidden.float() * mask).sum(1) / mask.sum(1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B] cosines of 2B sentences, the pairs' first sentences before their second."""
        first, second = self.embed(inputs).chunk(2)
        return (first * second).sum(-1)

    def to_score(self, raw: Tensor) -> Tensor:
        """The cosine itself. A label clamps it to [0, 1]; few pairs of real sentences are below 0."""
        return raw

    def collate(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Tensor]:
        """2B sentences in one batch, so that a step is one pass. A cosine has no order to turn round."""
        return self.inputs.singles(pairs, pairs.pairs[rows].T.reshape(-1))

    def work(self, pairs: TokenisedPairs) -> int:
        return sum(
            len(np.unique(pairs.pairs[start : start + BLOCK_PAIRS])) for start in range(0, len(pairs), BLOCK_PAIRS)
        )

    @property
    def width(self) -> int:
        """D, numbers in a sentence vector."""
        return self.backbone.config.hidden_size  # type: ignore[union-attr,return-value]

    @torch.inference_mode()
    def encode(
        self,
        pairs: TokenisedPairs,
        sentences: np.ndarray,
        out: np.ndarray,
        batch_tokens: int,
        progress: Progress,
        unit: bool = True,
    ) -> None:
        """Vectors of some sentences, each encoded once, in fp32.

        Args:
            pairs: the tokenised sentences.
            sentences: [S] numbers of those wanted.
            out: [S, D] array that they are written to, in any float type.
            batch_tokens, progress: as for `score`.
            unit: whether they are brought to length 1.
        """
        vectors = self.embed if unit else self.pool
        lengths = self.inputs.single_lengths(pairs.lengths[sentences])

        def run(group: np.ndarray) -> None:
            inputs = self.inputs.singles(pairs, sentences[group])
            out[group] = vectors(self.to_device(inputs)).cpu().numpy()
            progress(len(group))

        in_batches(lengths, batch_tokens, run)

    @torch.no_grad()
    def centre(self, pairs: TokenisedPairs, batch_tokens: int, progress: Progress = lambda count: None) -> float:
        """Take the mean vector of the sentences, or of `CENTRING_SENTENCES` of them spread evenly, to 0.

        Vectors that all share a direction differ little by cosine, and less by meaning than they could (the first step
        of Mu and Viswanath 2018, arXiv 1702.01417; their second takes out the first principal components).

        Args:
            pairs, batch_tokens, progress: as for `encode`.

        Returns:
            The length of the mean over the mean length: 0 where there was nothing to take out, 1 where all were one.

        Raises:
            InputError: there is no `shift`.
        """
        if (shift := self.shift()) is None:
            raise InputError(f"a {self.backbone.config.model_type} cannot be centred")
        sentences = np.unique(np.linspace(0, len(pairs.lengths) - 1, CENTRING_SENTENCES).astype(int))
        vectors = np.empty((len(sentences), self.width), dtype=np.float32)
        self.encode(pairs, sentences, vectors, batch_tokens, progress, unit=False)
        mean = vectors.mean(axis=0)
        shift -= torch.from_numpy(mean).to(shift.device)
        return float(np.linalg.norm(mean) / np.linalg.norm(vectors, axis=1).mean())

    @torch.no_grad()
    def shift(self) -> torch.nn.Parameter | None:
        """[D], what is added to every vector, pooled either way: the bias of the last layer's normalisation.

        Moving it leaves the encoder one of its family. None where the last layer does not end with such a bias.
        """
        some = tokenise(["a", "b"], np.array([[0, 1]]), self.tokenizer)
        probe = self.to_device(self.inputs.singles(some, np.arange(2)))
        before = self.pool(probe)
        for module in reversed(list(self.backbone.modules())):  # in some families it is not the last to be registered
            bias = getattr(module, "bias", None) if type(module).__name__.endswith("LayerNorm") else None
            if bias is not None and bias.shape == before.shape[1:]:
                kept = bias.clone()
                bias += 1
                moved = self.pool(probe) - before
                bias.copy_(kept)
                if torch.allclose(moved, torch.ones_like(moved), atol=1e-3):
                    return bias
        return None

    def _similarities(self, pairs: TokenisedPairs, batch_tokens: int, progress: Progress) -> np.ndarray:
        cosines = np.empty(len(pairs), dtype=np.float32)
        for start in range(0, len(pairs), BLOCK_PAIRS):
            used, places = np.unique(pairs.pairs[start : start + BLOCK_PAIRS], return_inverse=True)
            vectors = torch.empty(len(used), self.width)
            self.encode(pairs, used, vectors.numpy(), batch_tokens, progress)
            first, second = vectors[places.reshape(-1, 2).T]
            cosines[start : start + BLOCK_PAIRS] = (first * second).sum(-1).numpy()
        return cosines

    @classmethod
    def from_source(
        cls,
        source: Source,
        description: Description,
        *,
        pooling: str = "auto",
        layers: int | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """
        Args:
            source, description: the model folder.
            pooling: "cls", "mean", or "auto": what the folder says, else cls.
            layers: keep only this many first layers; None keeps all.
            max_tokens: tokens a sentence is cut to; None is what the folder says.

        Raises:
            InputError: it is a cross-encoder, or asks for something this class lacks.
        """
        if description.cross:
            raise InputError(f"{source.name}: is a cross-encoder, and a bi-encoder is needed")
        refuse(source, description)
        if pooling == "auto":
            pooling = description.pooling or "cls"
        if pooling not in ("cls", "mean"):
            raise InputError(
                f"{source.name}: its pooling, {pooling!r:.80}, is not supported; set model.pooling to mean or cls"
            )
        config, tokenizer, length = load_parts(
            source, max_tokens or description.max_tokens, layers, description.lowercase
        )
        backbone = load_backbone(AutoModel, source, config)
        return cls(backbone, tokenizer, length, pooling).eval()

    def save(self, folder: Path) -> None:
        """A sentence-transformers folder, in the layout that every version since 2.0 reads.

        Without these files a loader would take the mean for the pooling, silently. Without the pooler's weights, which
        nothing here uses, it would report the folder as incomplete.
        """
        (pooler,) = self._pooler
        weights = {f"pooler.{name}": weight for name, weight in pooler.state_dict().items()} if pooler else {}
        self._save_backbone(folder, weights)
        module = "sentence_transformers.models"
        files = {
            "modules.json": [
                {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
            ],
            "sentence_bert_config.json": {"max_seq_length": self.max_tokens, "do_lower_case": False},
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.backbone.config.hidden_size,
                "pooling_mode_cls_token": self.pooling == "cls",
                "pooling_mode_mean_tokens": self.pooling == "mean",
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            },
            "config_sentence_transformers.json": {"similarity_fn_name": "cosine", "prompts": {}},
        }
        (folder / "1_Pooling").mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
