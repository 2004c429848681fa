"""Model cards: README.md of a model folder, with what the Hugging Face hub reads of it."""

import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from transenc.config.schema import Direction, Select, Train, listed
from transenc.data.known import KNOWN
from transenc.model_description import read_as
from transenc.results import METRIC_NAMES, Row, percent

if TYPE_CHECKING:
    from transenc.selection import Selected

NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)  # of a model on the hub
FOLDERS = re.compile(r"(?<![^\s=,\[{(\"'])[~/][^\s,\[\]{}\"']*/")  # those of an absolute path, also inside a command
HERE = "path/to/this/folder"  # stands in a card's snippet until the model has a name
SNIPPETS = {
    "bi": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{}")
vectors = model.encode(["A man is eating.", "Someone has a meal."])
print(model.similarity(vectors, vectors))""",
    "ordered": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{}")  # first sentences are queries, second ones documents
queries = model.encode_query(["How high is the tower?"])
print(model.similarity(queries, model.encode_document(["The tower is 50 metres high."])))""",
    "cross": """from sentence_transformers import CrossEncoder

model = CrossEncoder("{}")
print(model.predict([("A man is eating.", "Someone has a meal.")]))  # a score in (0, 1)""",
}


def public_name(name: str) -> str:
    """The name of a model or a file, without a demanded digest and without the folders of this machine."""
    return FOLDERS.sub("", name.partition("#sha256=")[0])


def as_code(text: str) -> str:
    """Text of others as Markdown code on one line, whatever backticks it holds."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if text[:1] == "`" or text[-1:] == "`" else f"{fence}{text}{fence}"


def _cell(text: str) -> str:
    """Text of others in a Markdown table, as it is written."""
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", " ".join(text.split()))


def how_made(choice: "Selected", cfg: Train, select: Select) -> str:
    """How a card says that a selected encoder was made.

    Args:
        choice: the encoder, and what the run says of it.
        cfg: of its run.
        select: what selected it, never `auto`.
    """
    member, direction = choice.member, cfg.distill.direction
    facts = member.artifact.facts
    initial = {"bi": listed(cfg.model.bi), "cross": listed(cfg.model.cross)}
    names = {kind: " + ".join(as_code(public_name(name)) for name in initial[kind]) for kind in direction.kinds}
    method = {
        Direction.both: "a bi-encoder ({bi}) and a cross-encoder ({cross}) trained each other in turn, without labels"
        " ([Trans-Encoder](https://arxiv.org/abs/2109.13059), Liu et al., ICLR 2022)",
        Direction.bi_to_cross: "the bi-encoder ({bi}) labelled the training pairs of the cross-encoder",
        Direction.cross_to_bi: "the cross-encoder ({cross}) labelled the training pairs of the bi-encoder",
    }.get(direction, "supervised, trained on human scores")
    text = method.format(**names)
    if cfg.fixed_teachers:
        fixed = ", ".join(as_code(public_name(name)) for name in cfg.fixed_teachers)
        text += f"; fixed teachers that were not trained labelled with them ({fixed})"
    selected = {
        Select.dev: "Weights and iteration were selected by gold development scores.",
        Select.agreement: "Weights and iteration were selected by agreement with held-out labels.",
        Select.last: "It has the last weights of the last iteration.",
    }
    text += f". {selected[select]}"
    if facts["encoder"].get("symmetric"):
        text += " Its results below are of the mean logit over both orders of a pair; `predict` takes one order."
    if member.folds:
        best = f"It is the best of {len(member.folds)}"
        made = best if member.artifact in member.folds else f"Its weights are the mean of those of {facts['mean_of']}"
        text += f" {made} cross-encoders that were each trained on the pool but one fold."
    if choice.note:
        reason = choice.note.removeprefix(f"{member.place}: ")  # which says nothing to others
        text += f" {reason[0].upper()}{reason[1:]}"
    if facts.get("centred"):
        text += " Its embeddings were mean-centred over the sentences of the pool."
    text += f" It is read with {read_as(facts['encoder'])}."
    return text + (f" **Do not use it**: {choice.warning}." if choice.warning else "")


def card(
    kind: str,
    initial: str,
    base: str,
    made: str,
    sources: Sequence[str],
    shared: int,
    rows: Sequence[Row],
    command: str,
    *,
    trained: bool = True,
    centred: bool = False,
    two_prompts: bool = False,
    files: Collection[str] = (),
) -> str:
    """A model card: what it is, how to use it, how it was made, what it scores, whose data it saw.

    Args:
        kind: "bi" or "cross".
        initial: name of the model it was fine-tuned from.
        base: where others find that: its name on the hub; or a local folder.
        made: how, in a sentence or two.
        sources: the sets or files it learnt from.
        shared: how many of the pairs it learnt from are also in its development or test sets.
        rows: its own results.
        command: that made it.
        trained: whether its weights are others than those of `initial`.
        centred: whether its embeddings were mean-centred; of a trained one, `made` says so.
        two_prompts: whether it has one for first and one for second sentences.
        files: those tasks that are a person's own files, whatever they are called.
    """
    tag = {"bi": "sentence-similarity", "cross": "text-ranking"}[kind]
    snippet = SNIPPETS["ordered" if two_prompts else kind].format(HERE)
    lines = [f"| {_cell(row.task)} | {row.n:,} | {METRIC_NAMES[row.metric]} | {percent(row.value)} |" for row in rows]
    scores = "\n".join(["| task | pairs | measure | x100 |", "|---|---|---|---|", *lines])
    unchanged = not trained and not centred
    first = f"Fine-tuned from {as_code(initial)}"
    if not trained:
        first = f"{as_code(initial)}, {'mean-centred on the pool' if centred else 'unchanged'}"
    licence = "The pairs and the weights it started from have licences of their own, which may bind this model too."
    splits = {name: one for name, one in KNOWN.items() if name not in files and one.hub and one.hub_split}
    if not unchanged:
        terms = dict.fromkeys(KNOWN[name].terms for name in sources if name in KNOWN and KNOWN[name].terms)
        licence += "".join(f" It learnt from {term}." for term in terms)
    transductive = f"yes: {shared:,} of the pairs it learnt from, without their scores" if shared else "no"
    head = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=tag,
        base_model=base if NAME.fullmatch(base) else None,  # the hub takes no others
        datasets=[] if unchanged else sorted({KNOWN[name].hub for name in sources if name in KNOWN} - {""}),
        tags=["sentence-transformers", tag, "trans-encoder", "distillation"],
        license="other",
        license_name="of-its-data-and-base-model",
        model_name=f"{kind}-encoder",
        eval_results=[
            EvalResult(
                "semantic-similarity",
                splits[row.task].hub if row.task in splits else "unknown",
                row.task,
                row.metric,
                round(row.value, 6),
                # The hub merges results of one data set; without its split, a development and a test set would be one.
                dataset_split=splits[row.task].hub_split if row.task in splits else row.task,
                metric_name=METRIC_NAMES[row.metric],
            )
            for row in rows
            if not math.isnan(row.value)
        ],
    )
    return f"""---
{head.to_yaml(line_break=chr(10))}
---

# A {kind}-encoder by Trans-Encoder

{first}: {made}

```python
{snippet}
```

{scores if rows else "It was not evaluated on scored pairs."}

- Learnt from: {", ".join(as_code(public_name(name)) for name in sources)}.
- Development or test pairs among them (transductive): {transductive}.
- Command: {as_code(FOLDERS.sub("", command))}
- Licence: {licence}
"""
