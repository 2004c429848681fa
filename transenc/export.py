"""Files that a run leaves for people, beside results.csv: labels/, models/ with their cards, run.json."""

import csv
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transenc.results import Row

LIBRARIES = ("torch", "pytorch-lightning", "transformers", "tokenizers", "hydra-core", "numpy", "scipy")


def write_labels(path: Path, sentences: Sequence[str], pairs: Any, labels: Any) -> None:
    """A csv of sentence1, sentence2, label, in the order of the pool.

    Args:
        path: of the file.
        sentences: S texts.
        pairs: [N, 2] numbers into them.
        labels: [N] float32 in [0, 1].
    """
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sentence1", "sentence2", "label"))
        for (first, second), value in zip(pairs.tolist(), labels.tolist(), strict=True):
            writer.writerow((sentences[first], sentences[second], f"{value:.6f}"))


def copy_model(source: Path, folder: Path, card: str) -> None:
    """A model folder for people: the artifact's files without its record and curve, and a card."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("artifact.json", "curve.jsonl"))
    (aside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def card(
    kind: str, base: str, pool: Sequence[str], rows: Sequence[Row], command: str, chosen: str, names: Mapping[str, str]
) -> str:
    """A model card: what it is, how to use it, how it was made, what it scores, whose data it saw.

    Args:
        kind: "bi" or "cross".
        base: name of the model it was fine-tuned from.
        pool: the sets or files whose pairs it learnt from.
        rows: its own results.
        command: that made it.
        chosen: how its iteration was chosen.
        names: start models by kind.
    """
    if kind == "bi":
        tag, snippet = (
            "sentence-similarity",
            (
                "from sentence_transformers import SentenceTransformer\n\n"
                'model = SentenceTransformer("path/to/this/folder")\n'
                'vectors = model.encode(["A man is eating.", "Someone has a meal."])\n'
                "print(model.similarity(vectors, vectors))"
            ),
        )
    else:
        tag, snippet = (
            "text-ranking",
            (
                "from sentence_transformers import CrossEncoder\n\n"
                'model = CrossEncoder("path/to/this/folder")\n'
                'print(model.predict([("A man is eating.", "Someone has a meal.")]))  # a score in (0, 1)'
            ),
        )
    lines = [f"| {row.task} | {row.n:,} | {100 * row.spearman:.2f} | {100 * row.pearson:.2f} |" for row in rows]
    scores = "\n".join(lines)
    start = base.partition("#")[0]
    unchanged = bool(rows) and all(row.iteration == 0 for row in rows)
    made = (
        f"`{start}`, unchanged, since no iteration improved on it"
        if unchanged
        else f"Fine-tuned from `{start}` without labels"
    )
    noncommercial = not unchanged and any(name.startswith("sick") for name in pool)
    licence = "The pairs and the weights it started from have licences of their own, which may bind this model too."
    if noncommercial:
        licence += " It learnt from SICK, which is CC BY-NC-SA 3.0: not for commercial use."
    return f"""---
library_name: sentence-transformers
pipeline_tag: {tag}
base_model: {json.dumps(start)}
tags: [sentence-transformers, {tag}, trans-encoder, distillation]
---

# A {kind}-encoder by Trans-Encoder

{made}: a bi-encoder (`{names["bi"]}`) and a cross-encoder
(`{names["cross"]}`) taught each other in turn (Liu et al., [Trans-Encoder](https://arxiv.org/abs/2109.13059), ICLR
2022). {chosen}

```python
{snippet}
```

| task | pairs | Spearman x100 | Pearson x100 |
|---|---|---|---|
{scores}

- Unlabelled pairs: {", ".join(f"`{name}`" for name in pool)}.
- Command: `{command}`
- Licence: {licence}
"""


def describe_run(cfg: Mapping[str, Any], command: str, selected: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What run.json holds: the settings, what was selected and by what, versions, machine, command, git state."""

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except OSError:  # no git here
        commit = changes = None
    return {
        "command": command,
        "selected": selected,
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: version(name) for name in LIBRARIES},
        "git": {"commit": commit, "changed": bool(changes)},
        "config": cfg,
    }
