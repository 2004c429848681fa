"""Hub models, downloaded here file by file: transformers, given a hub name, would have a third party's service convert
pickled weights.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transenc.errors import InputError


def download(name: str, first: Iterable[str], then: Callable[[Path], Iterable[list[str]]]) -> Path:
    """The files of a hub model that we read, in the hub's local cache: a folder named after the commit.

    Args:
        name: OWNER/NAME or OWNER/NAME@REVISION.
        first: patterns of the files to fetch first.
        then: from the folder with these, to the patterns to fetch next, round by round; what a round brought is there
            when the next one is asked for.

    Raises:
        InputError: neither the hub nor the cache has the name, or a file of it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """Gone when it is done, like our own, and none where there is no terminal."""

        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(*arguments, **(settings | {"leave": False, "ncols": 79, "disable": None}))

    repo, _, revision = name.partition("@")

    def get(revision: str | None, patterns: Iterable[str]) -> Path:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns), tqdm_class=Bar))

    wanted = "config.json"
    try:
        folder = get(revision or None, first)
        for patterns in then(folder):
            wanted = patterns[0]
            # The hub's library warns where nothing matches, so what is there already is asked for too.
            get(folder.name, ["config.json", *patterns])
    except InputError:
        raise
    except Exception as error:  # of the hub, of its client, of the network below it
        owner = "" if "/" in repo else "; the hub's names are OWNER/NAME, sentence-transformers/all-MiniLM-L6-v2, say"
        raise InputError(f"{name}: {_explain(error, repo, wanted)}{owner}") from None
    return folder


def _explain(error: Exception, repo: str, wanted: str) -> str:
    """One line for what kept a file of a model from being downloaded: the hub's own words, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the hub did answer, and its client then looked into the cache
    words = getattr(error, "server_message", None) or re.sub(r" ?\(Request ID:[^)]*\)", "", str(error))
    words = " ".join(words.split()).rstrip(".") or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo}"
        return f"a gated model ({words}); ask for access at {page}, then log in with 'hf auth login'"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"neither a folder here nor a model on the hub that you may read ({words}); check the name or, for a"
            " private model, log in with 'hf auth login'"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has the model, but not this revision ({words}); leave @... out for the newest"
    if isinstance(error, errors.HFValidationError):
        return f"no such folder, and no name of the hub's ({words})"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"no such folder, and the Hugging Face hub cannot be reached, nor has its cache {wanted} of such a model"
            f" ({words}); give a local folder, or try again with a network"
        )
    if status == 403:
        return f"the hub refuses {wanted} ({words}); log in with 'hf auth login' and a token that may read it"
    return f"{wanted} could not be downloaded ({words}); try again, or give a local folder"
