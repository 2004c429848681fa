"""The bi-encoder: each sentence on its own into an embedding; a pair's similarity is the cosine of two embeddings."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

import transenc.encoders.modules as st_modules
from transenc.data.tokens import TokenisedPairs
from transenc.encoders.base import PairEncoder
from transenc.encoders.cpu_layers import speed_up
from transenc.encoders.inputs import in_batches
from transenc.encoders.late_interaction import TokenVectors, inverse_document_frequencies
from transenc.encoders.loading import UNLIMITED, load_backbone, load_parts, refuse
from transenc.errors import InputError
from transenc.model_description import PAIR_PROMPTS, Description
from transenc.model_folder import Source

CENTRING_SENTENCES = 10_000  # sentences at most that a mean vector is taken over
BLOCK_TOKENS = 1 << 16  # compared at a time: 0.2 GB of vectors at D = 768
BLOCK_PAIRS = 1 << 16  # pairs scored at a time: 0.4 GB of embeddings at E = 768, twice while they are gathered


@dataclass(frozen=True)
class Prompts:
    """The texts that a folder keeps to be put before a sentence.

    Attributes:
        named: by name.
        used: the two before a first and a second sentence. If they differ, they are called query and document.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    used: tuple[str, str] = ("", "")

    def settings(self) -> dict[str, Any]:
        """What config_sentence_transformers.json has to say, so that `encode` (`encode_query`, `encode_document` where
        the two differ) puts the same texts before a sentence.
        """
        first, second = self.used
        if first != second:
            roles = {"query": first, "document": second}
            return {"prompts": {**self.named, **roles}, PAIR_PROMPTS: list(roles)}
        if not first:
            return {"prompts": dict(self.named)}
        name = next((name for name, text in self.named.items() if text == first), "default")
        return {"prompts": {**self.named, name: first}, "default_prompt_name": name}


class BiEncoder(PairEncoder):
    """A backbone, a pooling of its hidden states, and what may stand behind that.

    Args:
        backbone, tokenizer, max_tokens: as for `PairEncoder`; max_tokens is a sentence's.
        head: modules of sentence-transformers, a Pooling first; or only the name of a pooling, "cls", say.
        prompts: what stands before a sentence.
        truncate_dim: how many numbers of an embedding are kept, the first ones; None: all.
        pooling_guessed: whether nobody said which pooling it is.
    """

    kind: ClassVar[str] = "bi"
    sequences_per_pair: ClassVar[int] = 2
    unit: ClassVar[str] = "sentences"

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        head: str | Sequence[Any],
        prompts: Prompts = Prompts(),  # it cannot change
        truncate_dim: int | None = None,
        pooling_guessed: bool = False,
    ):
        static = isinstance(backbone, st_modules.StaticEmbeddings)
        if isinstance(head, str):
            head = [st_modules.pooling_of(head, backbone.config.hidden_size)]
        modes, self.include_prompt = head[0].pooling_mode, head[0].include_prompt
        first_only = modes == "cls" and (self.include_prompt or prompts.used == ("", ""))
        super().__init__(backbone, tokenizer, max_tokens, first_only, prompts.used, special=not static)
        self.pooling = modes if isinstance(modes, str) else "+".join(modes)
        self.named_prompts, self.truncate_dim, self.pooling_guessed = prompts, truncate_dim, pooling_guessed
        # A cosine does not need a last Normalize. Without it, adding to the bias shifts the mean embedding.
        normalised = type(head[-1]).__name__ == "Normalize"
        self.head = nn.ModuleList(head[:-1] if normalised else head)
        self._normalise = list(head[-1:]) if normalised else []
        sizes = [module.get_embedding_dimension() for module in head if hasattr(module, "get_embedding_dimension")]
        self.width = min(sizes[-1], truncate_dim or sizes[-1])
        # A pooler is not used here, and unused weights stop training in several processes. It is kept aside for `save`.
        self._pooler = [getattr(backbone, "pooler", None)]
        if self._pooler[0] is not None:
            backbone.pooler = None
        self._prompt_length = None if self.include_prompt else self._tokens_of_prompt(self.prompts[0])

    @property
    def recordable(self) -> bool:
        return super().recordable and not self._prompt_length  # to leave it out, pooling waits for the GPU

    def _tokens_of_prompt(self, prompt: str) -> int:
        """Tokens that the pooling leaves out, the special ones before the prompt included, as sentence-transformers
        counts them.
        """
        if not prompt:
            return 0
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        return min(len(self.inputs.alone_before) + len(ids), self.max_tokens - len(self.inputs.alone_behind))

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B, E] float32 sentence embeddings of length 1."""
        return F.normalize(self.pool(inputs), dim=-1)

    def pool(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B, E] float32 sentence embeddings as they come."""
        return self.in_micro_batches(self._pool, inputs)

    def _pool(self, inputs: dict[str, Tensor]) -> Tensor:
        hidden = self.backbone(**inputs).last_hidden_state  # [B, L, D]
        with torch.autocast(self.device.type, enabled=False):
            features = {"token_embeddings": hidden.float(), "attention_mask": inputs["attention_mask"]}
            if self._prompt_length:
                features["prompt_length"] = self._prompt_length  # type: ignore[assignment]
            for module in self.head:
                features = module(features)
            return features["sentence_embedding"][:, : self.width]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B] cosines of 2B sentences, the pairs' first sentences before their second."""
        first, second = self.embed(inputs).chunk(2)
        return (first * second).sum(-1)

    def to_score(self, raw: Tensor) -> Tensor:
        """The cosine itself. A label clamps it to [0, 1]; few pairs of real sentences are below 0."""
        return raw

    def collate(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Tensor]:
        """2B sentences in one batch, so that a step is one pass. A cosine has no order to swap."""
        return self.inputs.singles(pairs, pairs.sides(rows).T.reshape(-1))

    def work(self, pairs: TokenisedPairs) -> int:
        return sum(
            len(np.unique(pairs.sides(slice(start, start + BLOCK_PAIRS))))
            for start in range(0, len(pairs), BLOCK_PAIRS)
        )

    def truncated(self, pairs: TokenisedPairs) -> int:
        return int(np.sum(pairs.lengths[np.unique(pairs.sides())] > self.inputs.room))

    @torch.inference_mode()
    def encode(
        self,
        pairs: TokenisedPairs,
        sentences: np.ndarray,
        out: np.ndarray,
        batch_tokens: int,
        progress: Callable[[int], Any],
        unit: bool = True,
    ) -> None:
        """Vectors of some sentences, each encoded once; in fp32 outside of `scoring`.

        Args:
            pairs: the tokenised sentences.
            sentences: [S] numbers of those wanted.
            out: [S, E] array that they are written to, in any float type.
            batch_tokens, progress: as for `similarities`.
            unit: whether they are brought to length 1.
        """
        vectors = self.embed if unit else self.pool
        lengths = self.inputs.single_lengths(pairs.lengths[sentences])

        def run(group: np.ndarray) -> None:
            inputs = self.inputs.singles(pairs, sentences[group])
            out[group] = vectors(self.to_device(inputs)).cpu().numpy()
            progress(len(group))

        in_batches(lengths, batch_tokens, run)

    def late_interaction(
        self,
        pairs: TokenisedPairs,
        batch_tokens: int,
        progress: Callable[[int], Any] = lambda count: None,
        precision: str = "32-true",
        documents: int | None = None,
    ) -> np.ndarray:
        """Similarities of all pairs by their tokens, without special tokens and prompts: by late interaction without
        weights, and weighted by inverse document frequency, and by the tokens' mean, whatever the pooling.

        Args:
            pairs: N tokenised pairs.
            batch_tokens, precision: as for `similarities`.
            progress: called with the number of pairs just done.
            documents: how many of the sentences, the first ones, document frequencies are counted in; None: all.

        Returns:
            [3, N] float32 in [-1, 1], see `transenc.encoders.late_interaction`.
        """
        scores = np.empty((3, len(pairs)), dtype=np.float32)
        vocabulary = self.backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
        before = len(self.inputs.alone_before)
        # A space that ends a prompt is part of the sentence's first token.
        skipped = np.array([max(before, self._tokens_of_prompt(prompt.rstrip())) for prompt in self.prompts])
        copies = 2 if pairs.second_offset else 1
        documents = documents or len(pairs.lengths) // copies
        counts = pairs.sentence_counts(vocabulary, (skipped - before).tolist(), documents)
        idf = inverse_document_frequencies(counts, copies * documents)
        weightings = torch.from_numpy(np.stack([np.ones_like(idf), idf])).to(self.device)  # [2, V]
        speed_up(self.backbone, False, self._cpu_layers)  # all tokens, whatever the pooling reads
        try:
            with self.scoring(precision):
                blocks = np.cumsum(pairs.lengths[pairs.sides()].sum(axis=1)) // BLOCK_TOKENS
                for rows in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(blocks)) + 1):
                    sentences, sides = np.unique(pairs.sides(rows), return_inverse=True)
                    tokens = TokenVectors.of(self, pairs, sentences, skipped, batch_tokens)
                    scores[:, rows] = tokens.compare(sides.reshape(-1, 2), weightings, batch_tokens, progress)
        finally:
            self.use_cpu_layers(self._cpu_layers)
        return scores

    @torch.no_grad()
    def centre(
        self, pairs: TokenisedPairs, batch_tokens: int, progress: Callable[[int], Any] = lambda count: None
    ) -> float:
        """Take the mean vector of the sentences, or of `CENTRING_SENTENCES` of them spread evenly, to 0.

        Vectors that all share a direction differ little by cosine, and less by meaning than they could (the first step
        of Mu and Viswanath 2018, arXiv 1702.01417; their second takes out the first principal components).

        Args:
            pairs, batch_tokens, progress: as for `encode`.

        Returns:
            The length of the mean over the mean length: 0 where there was nothing to take out, 1 where all were one.

        Raises:
            InputError: there is no `embedding_bias`.
        """
        if (bias := self.embedding_bias()) is None:
            raise InputError(f"a {self.backbone.config.model_type} cannot be centred")
        sentences = np.unique(np.linspace(0, len(pairs.lengths) - 1, CENTRING_SENTENCES).astype(int))
        vectors = np.empty((len(sentences), self.width), dtype=np.float32)
        self.encode(pairs, sentences, vectors, batch_tokens, progress, unit=False)
        mean = vectors.mean(axis=0)
        bias.sub_(torch.from_numpy(mean).to(bias.device))
        return float(np.linalg.norm(mean) / np.linalg.norm(vectors, axis=1).mean())

    @torch.no_grad()
    def embedding_bias(self) -> torch.nn.Parameter | None:
        """[E], what is added to every embedding: the bias of the last layer's normalisation, or of a module behind it.

        A change of it keeps the architecture, so that other libraries load the model. None where the last layer has no
        such bias.
        """
        pair = self.tokenise(["a", "b"], np.array([[0, 1]]))
        probe = self.to_device(self.inputs.singles(pair, np.arange(2)))
        before = self.pool(probe)
        for module in reversed(list(self.modules())):  # in some families it is not the last to be registered
            last = isinstance(module, nn.Linear) or type(module).__name__.endswith("LayerNorm")
            bias = getattr(module, "bias", None) if last else None
            if isinstance(bias, nn.Parameter) and bias.shape == before.shape[1:]:
                kept = bias.clone()
                bias += 1
                moved = self.pool(probe) - before
                bias.copy_(kept)
                if torch.allclose(moved, torch.ones_like(moved), atol=1e-3):
                    return bias
        return None

    def _similarities(self, pairs: TokenisedPairs, batch_tokens: int, progress: Callable[[int], Any]) -> np.ndarray:
        cosines = np.empty(len(pairs), dtype=np.float32)
        for start in range(0, len(pairs), BLOCK_PAIRS):
            used, places = np.unique(pairs.sides(slice(start, start + BLOCK_PAIRS)), return_inverse=True)
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
        prompt: str | Sequence[str] | None = None,
        prompt_name: str | Sequence[str] | None = None,
    ) -> Self:
        """Load a bi-encoder.

        Args:
            source, description: the model folder.
            pooling: a mode of sentence-transformers' Pooling, or "auto": what the folder says, else cls.
            layers: keep only this many first layers; None keeps all.
            max_tokens: tokens a sentence is cut to; None is what the folder says.
            prompt: what to put before a sentence, or before a first and before a second one; None is what the folder
                says.
            prompt_name: a prompt of the folder's, or two, in the place of `prompt`.

        Raises:
            InputError: it is a cross-encoder, or asks for something this class lacks.
        """
        if description.cross:
            raise InputError(f"{source.name}: is a cross-encoder; name a bi-encoder here")
        refuse(source, description)
        used = _prompts(source, description, prompt, prompt_name)
        if source.static:
            if layers is not None:
                raise InputError(f"{source.name}: {layers} layers asked for, and static embeddings have none")
            if pooling not in ("auto", "mean"):
                raise InputError(f"{source.name}: static embeddings are pooled by their mean; set model.pooling=auto")
            backbone, tokenizer, limit = st_modules.load_static(source)
            length, width = max_tokens or limit or UNLIMITED, backbone.table.embedding_dim
        else:
            config, tokenizer, length = load_parts(
                source, description, max_tokens or description.max_tokens, layers, pair=False
            )
            backbone, width = load_backbone(AutoModel, source, description, config), config.hidden_size
        head, guessed = st_modules.load_modules(source, width, None if pooling == "auto" else pooling)
        if guessed and tokenizer.cls_token_id is None:
            raise InputError(
                f"{source.name}: its files name no pooling, and its tokenizer has no [CLS]; set model.pooling to"
                " lasttoken or mean, or save it with a Pooling by sentence-transformers"
            )
        prompts = Prompts(description.prompts, used)
        encoder = cls(backbone, tokenizer, length, head, prompts, description.truncate_dim, guessed)
        if not encoder.include_prompt and used[0] != used[1]:
            raise InputError(f"{source.name}: its pooling leaves the prompt out, which takes one prompt, not two")
        return encoder.eval()

    @property
    def facts(self) -> dict[str, Any]:
        behind = [type(module).__name__ for module in [*self.head, *self._normalise][1:]]
        return {"pooling": self.pooling, "guessed": self.pooling_guessed, "modules": behind, "dimensions": self.width,
                **super().facts}  # fmt: skip

    def save(self, folder: Path) -> None:
        """A sentence-transformers folder, in the layout that every version since 2.0 reads, if it has the modules.

        Without these files a loader would take the mean for the pooling, silently. Without the pooler's weights, which
        nothing here uses, it would report the folder as incomplete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.backbone, st_modules.StaticEmbeddings):
            limit = self.max_tokens if self.max_tokens < UNLIMITED else None
            st_modules.save_static(self.backbone, self.tokenizer, limit, folder)
        else:
            (pooler,) = self._pooler
            self._save_backbone(
                folder, {f"pooler.{name}": weight for name, weight in pooler.state_dict().items()} if pooler else {}
            )
        self._save_modules(folder)

    def _save_modules(self, folder: Path) -> None:
        static = isinstance(self.backbone, st_modules.StaticEmbeddings)  # which take the mean by themselves
        first, behind = "StaticEmbedding" if static else "Transformer", [*self.head, *self._normalise]
        if static:
            del behind[0]  # the pooling
        modules = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{first}"}]
        files = {
            "modules.json": modules + st_modules.save_modules(behind, folder),
            "sentence_bert_config.json": {"max_seq_length": self.max_tokens, "do_lower_case": False},
            "config_sentence_transformers.json": {"similarity_fn_name": "cosine", **self.named_prompts.settings()}
            | ({} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}),
        }
        if static:
            del files["sentence_bert_config.json"]
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _prompts(
    source: Source,
    description: Description,
    prompt: str | Sequence[str] | None,
    prompt_name: str | Sequence[str] | None,
) -> tuple[str, str]:
    """What stands before a first and before a second sentence.

    Raises:
        InputError: the folder has no prompt of that name.
    """
    if prompt_name is not None:
        names = [prompt_name] if isinstance(prompt_name, str) else list(prompt_name)
        if missing := [name for name in names if name not in description.prompts]:
            known = ", ".join(description.prompts) or "none"
            raise InputError(f"{source.name}: has no prompt named {missing[0]!r:.80}; it has {known}")
        prompt = [description.prompts[name] for name in names]
    if prompt is None:
        return description.default_prompts
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    return prompts[0], prompts[-1]
