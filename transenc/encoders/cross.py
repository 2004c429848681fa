"""The cross-encoder: both sentences in one sequence; a pair's similarity is the sigmoid of one logit."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from transenc.data.tokens import TokenisedPairs
from transenc.encoders.base import PairEncoder
from transenc.encoders.inputs import in_batches
from transenc.encoders.loading import OFFSET_POSITIONS, load_backbone, load_parts, refuse
from transenc.errors import InputError
from transenc.model_description import Description
from transenc.model_folder import Source


class Logit(nn.Linear):
    """A linear layer in fp32, also under autocast: a bf16 logit has three digits, and labels would tie."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


STRUCTURED = ("'type'", '"type"', ".type", "content[0]")  # by which sentence-transformers knows contents in parts
MIN_TEMPLATE_TOKENS = 16  # beside a template's end, for two sentences and what stands before them
PROBES = ("a", "Where is it?", "A <b> & 'c' \"d\" {{ e }} 12345", "the cat and the dog " * 30)
# For a new head on a decoder whose tokenizer puts nothing between two sentences: a line each, then its end of text.
PAIR_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ '\\n' if m['role'] == 'query' else 'EOS' }}{% endfor %}"


def nothing_between(tokenizer: Any) -> bool:
    """Whether the tokenizer puts no token between the two sentences of a pair."""
    sides = tokenizer("a", "b").sequence_ids()
    return sides.index(1) - sides.index(0) == sides.count(0)


@dataclass(frozen=True)
class Template:
    """A chat template with the roles query and document, as rerankers have: sentence-transformers puts pairs into it.

    Attributes:
        before, between: text before the first and before the second sentence.
        behind: tokens behind the second.
    """

    before: str
    between: str
    behind: list[int]

    @classmethod
    def of(cls, tokenizer: Any) -> tuple[Self | None, str]:
        """A tokenizer's template, and ""; or None, and why there is none that can be used."""
        if not isinstance(tokenizer.chat_template, str):
            return None, "is none"
        if any(word in tokenizer.chat_template for word in STRUCTURED):
            return None, "takes contents in parts"
        if tokenizer.truncation_side == "left":
            return None, "is cut from the left"

        def messages(query: str, document: str) -> list[dict[str, str]]:
            return [{"role": "query", "content": query}, {"role": "document", "content": document}]

        marks = "9173", "4268"
        try:  # transformers renders it in a sandbox
            text = tokenizer.apply_chat_template(messages(*marks), tokenize=False)
        except Exception:  # as a template of other roles raises whatever it likes
            return None, "has not the roles query and document"
        if any(text.count(mark) != 1 for mark in marks) or text.index(marks[0]) > text.index(marks[1]):
            return None, "does not show a query and then a document, each once"
        before, between, behind = re.split("|".join(marks), text)
        template = cls(before, between, tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else [])
        for pair in product(PROBES, PROBES):
            whole = tokenizer.apply_chat_template(messages(*pair), tokenize=False)
            parts = [before + pair[0], between + pair[1]]
            if whole != "".join([*parts, behind]):
                return None, "changes its contents"
            ids = [tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] for part in (whole, *parts)]
            if ids[0] != [*ids[1], *ids[2], *template.behind]:
                return None, "has tokens that span its parts"
        return template, ""


def _template(source: Source, description: Description, tokenizer: Any) -> Template | None:
    """What pairs are put into. If there is none, the tokenizer loses its own, which sentence-transformers would use."""
    found, problem = Template.of(tokenizer) if description.template else (None, "")
    if found is None:
        if description.cross and description.template and tokenizer.chat_template:  # it was trained with it
            raise InputError(f"{source.name}: its chat template {problem}, which is not supported")
        tokenizer.chat_template = None
        if not description.cross and nothing_between(tokenizer):
            tokenizer.chat_template = PAIR_TEMPLATE.replace("EOS", tokenizer.eos_token or "")
            tokenizer.truncation_side = "right"
            found, _ = Template.of(tokenizer)
    return found


class CrossEncoder(PairEncoder):
    """A transformers sequence classifier with one output.

    The head is the family's own (BERT: its pooler, then a linear layer; RoBERTa: a dense layer, then one), as in the
    paper's code, and any version of transformers or sentence-transformers loads the folder.

    Args:
        backbone, tokenizer, max_tokens: as for `PairEncoder`; max_tokens is a pair's.
        symmetric: whether a pair's logit is the mean of (a, b)'s and (b, a)'s. It is kept in config.json, which other
            libraries read without it, as of one order.
        prompts: what stands before the first sentence, and "".
        template: what pairs are put into; its parts take the place of prompts and special tokens.
        activation: what the folder turns a logit into a score by; here it is the sigmoid, and so in what is saved.
    """

    kind: ClassVar[str] = "cross"
    sequences_per_pair: ClassVar[int] = 1
    unit: ClassVar[str] = "pairs"

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        symmetric: bool,
        prompts: tuple[str, str] = ("", ""),
        template: Template | None = None,
        activation: str = "Sigmoid",
    ):
        if template is not None:
            prompts = template.before, template.between
        super().__init__(backbone, tokenizer, max_tokens, True, prompts, None if template is None else template.behind)
        self.symmetric, self.activation = symmetric, activation
        for module in backbone.modules():
            if type(module) is nn.Linear and module.out_features == 1:
                module.__class__ = Logit

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B] logits of B pairs."""
        return self.in_micro_batches(lambda part: self.backbone(**part).logits[:, 0].float(), inputs)

    @torch.no_grad()
    def init_bias(self, mean: float) -> None:
        """Initialise the bias of a new head, so that it scores pairs near the mean label (the prior of Lin et al. 2017,
        arXiv 1708.02002, section 3.3). With a bias of 0, training first raises, or lowers, the scores of all pairs.

        Args:
            mean: of the labels, in [0, 1]; clamped to [0.01, 0.99].
        """
        heads = [module for module in self.backbone.modules() if isinstance(module, Logit)]
        if heads[-1].bias is not None:  # decoders' heads have none
            heads[-1].bias.fill_(torch.logit(torch.tensor(mean), eps=0.01))

    def to_score(self, raw: Tensor) -> Tensor:
        """The logit's sigmoid, in (0, 1)."""
        return torch.sigmoid(raw)

    def collate(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Tensor]:
        return self.inputs.pairs(pairs, rows, swapped)

    def work(self, pairs: TokenisedPairs) -> int:
        return len(pairs) * (2 if self.symmetric else 1)

    def truncated(self, pairs: TokenisedPairs) -> int:
        return int(np.sum(pairs.lengths[pairs.sides()].sum(axis=1) > self.inputs.pair_room))

    def _similarities(self, pairs: TokenisedPairs, batch_tokens: int, progress: Callable[[int], Any]) -> np.ndarray:
        orders = 2 if self.symmetric else 1
        logits = np.empty(orders * len(pairs), dtype=np.float32)  # those of swapped pairs come second
        lengths = np.tile(self.inputs.pair_lengths(*pairs.lengths[pairs.sides()].T), orders)

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
        """Load a cross-encoder, or make one of a model without a head for pairs.

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
            raise InputError(
                f"{source.name}: is no cross-encoder (it has no classification head); name one that is trained"
            )
        if source.static:
            raise InputError(
                f"{source.name}: static embeddings see one word at a time, no cross-encoder; name another model"
            )
        config, tokenizer, length = load_parts(
            source, description, max_tokens or (description.max_tokens if description.cross else None), layers,
            pair=True,
        )  # fmt: skip
        if description.cross and source.base is None and config.num_labels != 1:
            raise InputError(
                f"{source.name}: its head has {config.num_labels} outputs, and a score is one; model.teachers takes one"
                " of entailment"
            )
        pad = config.pad_token_id if description.pad_token_id is None else description.pad_token_id
        matters = config.model_type in OFFSET_POSITIONS or not hasattr(config, "is_decoder")
        if description.cross and matters and pad not in (None, tokenizer.pad_token_id):
            raise InputError(
                f"{source.name}: pad_token_id={pad} in config.json, and its tokenizer pads with"
                f" {tokenizer.pad_token_id}; take the tokenizer that it was trained with"
            )
        config.num_labels = 1
        config.pad_token_id = tokenizer.pad_token_id  # by which decoders find the last token
        config.transenc_symmetric = description.symmetric if symmetric is None else symmetric
        # What sentence-transformers applies to the logit when it loads the folder.
        config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        head = None if description.cross else new_head
        backbone = load_backbone(AutoModelForSequenceClassification, source, description, config, head)
        template = _template(source, description, tokenizer)
        if template is not None and length < len(template.behind) + MIN_TEMPLATE_TOKENS:
            raise InputError(
                f"{source.name}: max_tokens={length} leaves no room for two sentences in its chat template"
            )
        if template is not None and description.default_prompts[0]:
            raise InputError(f"{source.name}: has a chat template and a prompt, which are not supported together")
        prompts = description.default_prompts[0], ""
        encoder = cls(backbone, tokenizer, length, config.transenc_symmetric, prompts, template, description.activation)
        return encoder.eval()

    @property
    def facts(self) -> dict[str, Any]:
        own = {"symmetric": self.symmetric, "activation": self.activation, "template": self.inputs.template}
        return {**own, **super().facts}

    def save(self, folder: Path) -> None:
        """A transformers folder, which sentence-transformers' `CrossEncoder` reads as it is."""
        self._save_backbone(folder)
        if self.prompts[0] and not self.inputs.template:
            self._save_modules(folder)

    def _save_modules(self, folder: Path) -> None:
        """Without them it reads neither a prompt nor an adapter."""
        modality = {kind: {"method": "forward", "method_output_name": "logits"} for kind in ("text", "message")}
        if self.inputs.template:
            modality["message"]["format"] = "flat"
        else:
            del modality["message"]
        prompts = {"default": self.prompts[0]} if self.prompts[0] and not self.inputs.template else {}
        files = {
            "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
            "sentence_bert_config.json": {
                "transformer_task": "sequence-classification", "modality_config": modality,
                "module_output_name": "scores", "config_kwargs": {"pad_token_id": self.tokenizer.pad_token_id},
            },
            "config_sentence_transformers.json": {
                "model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Sigmoid",
                "prompts": prompts, "default_prompt_name": next(iter(prompts), None),
            },
        }  # fmt: skip
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
