"""Measure every family and module with small random models, and write the tables of docs/encoders.md.

    python docs/encoders.py

Cosines and logits are held against sentence-transformers', before and after saving.
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from families import FOLDERS, PARTS, build, pooling_for  # noqa: E402
from sentence_transformers import CrossEncoder as TheirCrossEncoder  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from transenc.data.tokens import number_sentences  # noqa: E402
from transenc.encoders import BiEncoder, CrossEncoder  # noqa: E402
from transenc.encoders.cpu_layers import FAMILY  # noqa: E402
from transenc.terminal import quiet  # noqa: E402

PAGE = ROOT / "docs" / "encoders.md"
TOLERANCE = 1e-5
PAIRS = [
    ("the man eats food", "a man is eating"),
    ("the dog runs in the park", "a cat sleeps in the house"),
    ("a woman runs", "a woman runs"),
    ("food", "the dog runs in the park with a man and then eats all of the food in the house"),
]
EXAMPLES = {
    "bert": "all-MiniLM-L6-v2, BGE, E5, SimCSE",
    "roberta": "SimCSE-RoBERTa, all-roberta-large-v1",
    "xlm-roberta": "multilingual-E5, BGE-M3, BGE rerankers",
    "camembert": "sentence-camembert",
    "distilbert": "multi-qa-distilbert",
    "mpnet": "all-mpnet-base-v2",
    "electra": "ms-marco-electra-base (cross-encoder)",
    "albert": "paraphrase-albert-small-v2",
    "deberta": "DeBERTa v1; runs in fp32",
    "deberta-v2": "DeBERTa-v3: NLI and STS cross-encoders",
    "modernbert": "ModernBERT-embed, gte-modernbert",
    "nomic_bert": "nomic-embed-text",
    "gte": "alibaba-nlp-community/gte-multilingual-base",
    "jina_embeddings_v3": "jina-embeddings-v3-hf",
    "eurobert": "EuroBERT",
    "t5": "sentence-t5, GTR, Instructor",
    "qwen3": "Qwen3-Embedding, Qwen3-Reranker",
    "gemma3_text": "EmbeddingGemma",
    "mistral": "E5-Mistral, SFR-Embedding",
    "llama": "RepLLaMA",
}


def difference(encoder: Any, theirs: np.ndarray) -> float:
    """The largest from sentence-transformers' similarities."""
    raw = encoder.similarities(encoder.tokenise(*number_sentences(PAIRS)))
    return float(np.abs(raw - theirs).max())


def bi_difference(encoder: BiEncoder, folder: Path) -> float:
    encoder.save(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (torch.from_numpy(model.encode(list(side), batch_size=3)) for side in zip(*PAIRS, strict=True))
    return difference(encoder, torch.cosine_similarity(first, second).numpy())


def cross_difference(encoder: CrossEncoder, folder: Path) -> float:
    encoder.save(folder)
    model = TheirCrossEncoder(str(folder), device="cpu")
    pairs = [list(pair) for pair in PAIRS]
    return difference(encoder, model.predict(pairs, batch_size=3, activation_fn=torch.nn.Identity()))


def verdict(found: float) -> str:
    if found > TOLERANCE:
        raise SystemExit(f"differs by {found:.1e}")
    return "equal"


def tick(condition: bool) -> str:
    return "yes" if condition else "no"


def family_row(name: str, folder: Path) -> str:
    source = build(name, folder / "source")
    bi = BiEncoder.load(source, **pooling_for(name))
    cross = "no: it is an encoder-decoder"
    if name != "t5":
        cross = verdict(cross_difference(CrossEncoder.load(source, new_head=0), folder / "cross"))
    centred = tick(bi.embedding_bias() is not None)
    cells = [verdict(bi_difference(bi, folder / "bi")), cross, centred, tick(name in FAMILY)]
    return f"| `{name}` | {EXAMPLES[name]} | {' | '.join(cells)} |"


def folder_row(name: str, folder: Path) -> str:
    bi = BiEncoder.load(FOLDERS[name](folder / "source"))
    return f"| {name} | {verdict(bi_difference(bi, folder / 'bi'))} | {tick(bi.embedding_bias() is not None)} |"


def tables() -> dict[str, str]:
    """The two tables, by the name of their markers."""
    families = ["| family | models of it | bi-encoder | cross-encoder | mean-centring | fast CPU layers |"]
    folders = ["| the folder has | scores | mean-centring |"]
    with tempfile.TemporaryDirectory() as root:
        families += ["|---|---|---|---|---|---|", *(family_row(name, Path(root, name)) for name in PARTS)]
        folders += ["|---|---|---|"]
        folders += [folder_row(name, Path(root, f"folder{number}")) for number, name in enumerate(FOLDERS)]
    return {"families": "\n".join(families), "folders": "\n".join(folders)}


def rendered(text: str) -> str:
    """The page with its tables measured anew."""
    for name, table in tables().items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text,
            flags=re.DOTALL,
        )  # fmt: skip
    return text


if __name__ == "__main__":
    quiet()
    warnings.simplefilter("ignore")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
