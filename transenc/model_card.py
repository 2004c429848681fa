"""Files that a run leaves for people, beside results.csv: labels/, models/ with their cards, run.json."""

import csv
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from transenc.artifacts import Artifact, replacing
from transenc.data.hub import HUB
from transenc.data.published import PUBLISHED
from transenc.pairs import sentences_of
from transenc.results import NAMES, Row, shown

NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)  # of a model on the hub
HERE = "path/to/this/folder"  # stands in a card's snippet until the model has a name
SNIPPETS = {
    "bi": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{}")
vectors = model.encode(["A man is eating.", "Someone has a meal."])
print(model.similarity(vectors, vectors))""",
    "cross": """from sentence_transformers import CrossEncoder

model = CrossEncoder("{}")
print(model.predict([("A man is eating.", "Someone has a meal.")]))  # a score in (0, 1)""",
}
LIBRARIES = ("torch", "pytorch-lightning", "transformers", "tokenizers", "hydra-core", "numpy", "scipy")


def write_pairs(path: Path, pairs: Artifact, **columns: np.ndarray) -> None:
    """A csv of sentence1, sentence2 and the given columns, in the order of the pairs, to the last digit of a float32.

    Args:
        path: of the file.
        pairs: N pairs.
        columns: [N] numbers each, by name.
    """
    path.parent.mkdir(exist_ok=True)
    sentences, index = sentences_of(pairs), np.load(pairs / "pairs.npy", mmap_mode="r")
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sentence1", "sentence2", *columns))
        for (first, second), *values in zip(index, *columns.values(), strict=True):
            writer.writerow((sentences[first], sentences[second], *(f"{value:.9g}" for value in values)))


def copy_model(source: Path, folder: Path, card: str) -> None:
    """A model folder for people: the artifact's files without its record and curve, and a card."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("artifact.json", "curve.jsonl"))
    (aside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def public_name(name: str) -> str:
    """A model's name without the digest demanded of it."""
    return name.partition("#")[0]


def code(text: str) -> str:
    """Text of others as Markdown code on one line, whatever backticks it holds."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if text[:1] == "`" or text[-1:] == "`" else f"{fence}{text}{fence}"


def _cell(text: str) -> str:
    """Text of others in a Markdown table, as it is written."""
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", " ".join(text.split()))


def card(
    kind: str, start: str, made: str, sources: Sequence[str], shared: int, rows: Sequence[Row], command: str
) -> str:
    """A model card: what it is, how to use it, how it was made, what it scores, whose data it saw.

    Args:
        kind: "bi" or "cross".
        start: name of the model it was fine-tuned from.
        made: how, in a sentence or two.
        sources: the sets or files it learnt from.
        shared: how many of the pairs it learnt from are also in its development or test sets.
        rows: its own results.
        command: that made it.
    """
    tag = {"bi": "sentence-similarity", "cross": "text-ranking"}[kind]
    snippet = SNIPPETS[kind].format(HERE)
    scores = "\n".join(f"| {_cell(row.task)} | {row.n:,} | {NAMES[row.measure]} | {shown(row.value)} |" for row in rows)
    kept = bool(rows) and all(row.iteration == 0 for row in rows)
    centred = kept and rows[0].encoder.endswith("-centred")
    unchanged = kept and not centred
    first = (
        f"{code(start)}, {'centred on the pool' if centred else 'unchanged'}, since no iteration improved on it"
        if kept
        else f"Fine-tuned from {code(start)}"
    )
    licence = "The pairs and the weights it started from have licences of their own, which may bind this model too."
    known = {**PUBLISHED, **HUB}
    if not unchanged:
        terms = dict.fromkeys(known[name].terms for name in sources if name in known and known[name].terms)
        licence += "".join(f" It learnt from {term}." for term in terms)
    transductive = f"yes: {shared:,} of the pairs it learnt from, without their scores" if shared else "no"
    head = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=tag,
        base_model=start if NAME.fullmatch(start) else None,  # the hub takes no others
        datasets=[] if unchanged else sorted({known[name].hub for name in sources if name in known} - {""}),
        tags=["sentence-transformers", tag, "trans-encoder", "distillation"],
        license="other",
        license_name="of-its-data-and-base-model",
        model_name=f"{kind}-encoder",
        eval_results=[
            EvalResult(
                "semantic-similarity",
                (known[row.task].hub if row.task in known else "") or "unknown",
                row.task,
                row.measure,
                round(row.value, 6),
                # The hub merges results of one data set; without its split, a development and a test set would be one.
                dataset_split=row.task.rpartition("-")[2] if row.task in known else row.task,
                metric_name=NAMES[row.measure],
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

| task | pairs | measure | x100 |
|---|---|---|---|
{scores}

- Learnt from: {", ".join(map(code, sources))}.
- Development or test pairs among them (transductive): {transductive}.
- Command: {code(command)}
- Licence: {licence}
"""


def environment() -> dict[str, Any]:
    """What a run ran on: versions, machine, git state."""

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except OSError:  # no git here
        commit = changes = None
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: version(name) for name in LIBRARIES},
        "git": {"commit": commit, "changed": bool(changes)},
    }
