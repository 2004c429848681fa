"""Push a run's models to the Hugging Face Hub: `python -m transenc.publish RUN NAME/REPO`.

Each model goes to a repository of its own, NAME/REPO-bi-encoder and so on, with its card, whose snippet then loads it
from there. Without --push it only lists what it would send. A token is taken from where `hf auth login` puts it.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transenc.cli import one_line_errors, print_error
from transenc.errors import InputError, reason
from transenc.model_card import HERE, NAME
from transenc.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json
from transenc.report.run import Run

CARD = "README.md"
PUBLISHED_WEIGHTS = ("model.safetensors", ADAPTER_WEIGHTS)


def models(run: Path) -> list[Path]:
    """The model folders of a run.

    Raises:
        InputError: it has none.
    """
    found = sorted(path.parent for name in PUBLISHED_WEIGHTS for path in (run / "models").glob(f"[!.]*/{name}"))
    if not found:
        raise InputError(f"{run}: no finished run (it holds no models/*/{PUBLISHED_WEIGHTS[0]})")
    return found


def remarks(facts: Mapping[str, Any], model: Path) -> list[str]:
    """What a run's run.json says of one of its models."""
    name = model.name.replace("-encoder", "")
    warnings, notes = facts.get("warnings", {}), facts.get("notes", {})  # runs of earlier versions have none
    warned = [f"Do not use it: {warnings[name]}."] if name in warnings else []
    return warned + ([notes[name]] if name in notes else [])


def card(model: Path, repository: str) -> str:
    """A model's card, which calls it by its name on the hub.

    Raises:
        InputError: a link in the folder may lead to anything, or its card cannot be read.
    """
    if links := [path for path in (model, *model.rglob("*")) if path.is_symlink()]:
        raise InputError(f"{links[0]}: is a link; only what lies in the folder itself is published")
    try:
        text = (model / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{model / CARD}: there is no card that can be read ({error}); run again") from None
    return text.replace(HERE, repository)


def push(model: Path, repository: str, private: bool) -> str:
    """Upload a folder as it is, having loaded it as its users will; returns its address.

    Raises:
        InputError: there is no token, no network, or no such name to write under.
    """
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from transenc.model_description import describe
    from transenc.model_folder import find

    kind: Any = CrossEncoder if describe(find(str(model))).cross else SentenceTransformer
    try:
        return kind(str(model)).push_to_hub(
            repository, local_model_path=str(model), private=private, exist_ok=True, commit_message="Trans-Encoder"
        )
    except Exception as error:  # whatever the hub and the way to it have to say
        raise InputError(f"{repository}: not pushed ({reason(error)})") from error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m transenc.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder")
    parser.add_argument("repository", metavar="NAME/REPO", help="what the repositories' names begin with")
    parser.add_argument("--push", action="store_true", help="send the models")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    options = parser.parse_args(arguments)
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    facts = Run.read(options.run).facts  # of a finished run: a killed one may hold the models of two
    for model in models(options.run):
        repository = f"{options.repository}-{model.name}"
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise InputError(f"{options.repository}: {' '.join(str(error).split())}") from None
        base = read_json(model / ADAPTER_CONFIG).get("base_model_name_or_path")
        if base is not None and not NAME.fullmatch(base):
            raise InputError(
                f"{model}: an adapter of {base}, which nobody else has; run again with distill.adapters=merged, or from"
                " a model on the hub"
            )
        text = card(model, repository)
        files = sorted(path for path in model.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files) / 1e6
        print(f"{model} -> {repository}, {len(files)} files, {size:.1f} MB")
        for line in remarks(facts, model):
            print(f"  {line}")
        if not options.push:
            print("\n".join(f"  {path.relative_to(model)}" for path in files))
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(model, Path(folder) / model.name))
            (copy / CARD).write_text(text, encoding="utf-8")
            print(push(copy, repository, options.private))
    if not options.push:
        print("Nothing was sent; add --push to send it.")


if __name__ == "__main__":
    with one_line_errors("train", print_error):
        main(sys.argv[1:])
