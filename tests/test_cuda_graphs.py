"""Training by CUDA graphs. A CPU has none: what would be recorded runs again here, on the same memory."""

import os

import numpy as np
import pytest
import torch
from conftest import PAIRS
from pytorch_lightning import Trainer
from torch import nn

from transenc.data.module import PairDataModule
from transenc.encoders import BiEncoder, CrossEncoder, OptimizerConfig, base, cuda_graphs
from transenc.encoders.cuda_graphs import GraphedForward, rounded
from transenc.encoders.cuda_kernels import reproducible
from transenc.errors import InputError
from transenc.training import train

LABELS = np.linspace(0, 1, len(PAIRS), dtype=np.float32)


class Reruns:
    """In the place of `Recorder`."""

    def __init__(self):
        self.recorded = 0

    def record(self, *runs):
        self.recorded += 1
        for run in runs:
            run()
        autocast = torch.autocast("cpu", torch.bfloat16, torch.is_autocast_enabled("cpu"))  # a graph holds what it does
        return [autocast(torch.enable_grad()(run)) for run in runs]


@pytest.fixture(autouse=True)
def reruns(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "Recorder", Reruns)


def prepared(kind, folder):
    encoder = BiEncoder.load(folder) if kind == "bi" else CrossEncoder.load(folder, new_head=0)
    encoder.use_cpu_layers(False)
    encoder.backbone.config._attn_implementation = "eager"
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    encoder.optimizer_config = OptimizerConfig("mse", 1e-3, 0.0, 0.1)
    return encoder


def tokens_of(encoder):
    return encoder.tokenise([sentence for pair in PAIRS for sentence in pair], np.arange(2 * len(PAIRS)).reshape(-1, 2))


def batch(encoder, *rows):
    return encoder.collate(tokens_of(encoder), np.array(rows), np.zeros(len(rows), dtype=bool))


def gradients(encoder, run, inputs):
    raw = run(inputs)
    (raw * torch.arange(1.0, 1 + len(raw))).sum().backward()
    return raw.detach(), {name: weight.grad.clone() for name, weight in encoder.named_parameters()}


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_outputs_and_gradients_are_those_of_forward_also_after_a_longer_batch(bert, kind):
    encoder = prepared(kind, bert).train()
    long, short = batch(encoder, 5, 3), batch(encoder, 4, 0)
    assert long["input_ids"].shape != short["input_ids"].shape
    raw, expected = gradients(encoder, encoder, short)
    encoder.zero_grad()
    graphed = GraphedForward(encoder, clip=0.0)
    for inputs in (long, short, long, short):
        found, found_gradients = gradients(encoder, graphed, inputs)
    torch.testing.assert_close(found, raw)
    torch.testing.assert_close(found_gradients, expected)


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_the_backward_pass_casts_what_the_forward_pass_has_cast_and_no_more(bert, kind):
    encoder = prepared(kind, bert).train()
    inputs = batch(encoder, 4, 0)

    def backward(run):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            raw = run(inputs)
        (raw * torch.arange(1.0, 1 + len(raw))).sum().backward()
        return {name: weight.grad.clone() for name, weight in encoder.named_parameters()}

    expected = backward(encoder)
    graphed = GraphedForward(encoder, clip=0.0)
    encoder.zero_grad = lambda: None
    found = backward(graphed)
    for name in ("classifier.weight", "pooler.dense.weight", "encoder.layer.0.output.dense.weight"):
        for full in (full for full in expected if full.endswith(name)):
            assert (found[full] - expected[full]).norm() <= 1e-4 * expected[full].norm(), full


def test_batches_of_a_shape_share_their_passes(bert):
    encoder = prepared("bi", bert).train()
    graphed = GraphedForward(encoder, clip=0.0)
    for rows in ([0, 1], [2, 4], [4, 0], [0, 1, 2]):
        gradients(encoder, graphed, batch(encoder, *rows))
    assert list(graphed.passes) == [(4, 16), (6, 16)]
    assert graphed.recorder.recorded == 2


def test_gradients_are_clipped_as_the_encoder_clips_them(bert):
    encoder = prepared("cross", bert).train()
    inputs = batch(encoder, 0, 1)
    _, expected = gradients(encoder, encoder, inputs)
    norm = torch.nn.utils.get_total_norm(list(expected.values()))
    encoder.zero_grad()
    _, clipped = gradients(encoder, GraphedForward(encoder, clip=float(norm) / 2), inputs)
    torch.testing.assert_close(clipped, {name: gradient / 2 for name, gradient in expected.items()})


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_a_training_has_the_losses_of_one_without(bert, kind):
    def trained(graphs):
        encoder = prepared(kind, bert)
        datamodule = PairDataModule(
            tokens_of(encoder), LABELS, encoder.collate, batch_size=3, both_orders=False, seed=0
        )
        if graphs:
            encoder.on_train_start = lambda: setattr(encoder, "graphed", GraphedForward(encoder, clip=1.0))
        result = train(
            encoder, datamodule, epochs=2, clip=1.0, accelerator="cpu", precision="32-true", seed=0, selection=None,
            eval_steps=0,
        )  # fmt: skip
        assert encoder.graphed is None
        return [row["loss"] for row in result.curve]

    # Not to the last digit: where a gradient is 0 but for rounding, AdamW makes steps of the rounding.
    np.testing.assert_allclose(trained(True), trained(False), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("bert", True),
        ("roberta", True),
        ("mpnet", False),
        ("off", False),
        ("in parts", False),
        ("checkpointed", False),
        ("prompt left out", False),
    ],
)
def test_only_families_that_can_be_recorded_are_and_only_whole_batches(models, case, expected, monkeypatch):
    encoder = BiEncoder.load(models.get(case, models["bert"]))
    encoder.cuda_graphs = case != "off"
    if case == "prompt left out":
        encoder._prompt_length = 3
    if case == "in parts":
        encoder.micro_batch = 2
    if case == "checkpointed":
        encoder.checkpoint_layers()
    encoder.trainer = Trainer(accelerator="cpu", gradient_clip_val=0.5, logger=False, enable_checkpointing=False)
    monkeypatch.setattr(base, "GraphedForward", lambda encoder, clip: clip)
    encoder.on_train_start()
    assert encoder.graphed is None  # on a CPU
    monkeypatch.setattr(BiEncoder, "device", torch.device("cuda"))
    encoder.on_train_start()
    assert encoder.graphed == (0.5 if expected else None)


def test_what_cannot_be_recorded_names_the_setting(bert, monkeypatch):
    def fails(self, *runs):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(Reruns, "record", fails)
    encoder = prepared("bi", bert).train()
    with pytest.raises(InputError, match=r"^trainer\.cuda_graphs: a bert .* \(.*not permitted.*\); set it to false$"):
        GraphedForward(encoder, clip=1.0)(batch(encoder, 0, 1))


@pytest.mark.parametrize(
    ("multiplies", "strict", "mode"), [(True, True, 2), (True, False, 1), (False, True, 0), (False, False, 0)]
)
def test_training_on_a_gpu_uses_deterministic_kernels_and_leaves_the_settings_as_they_were(
    multiplies, strict, mode, monkeypatch, caplog
):
    def settings():
        return torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory

    monkeypatch.setattr("transenc.encoders.cuda_kernels.multiplies", lambda: multiplies)
    before = settings()
    with reproducible("cuda", strict):
        assert settings() == (mode, False)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert settings() == before == (0, True)
    assert ("set CUBLAS_WORKSPACE_CONFIG=:4096:8 before you start Python" in caplog.text) is not multiplies
    with reproducible("cpu", strict):
        assert settings() == before


def test_torch_finds_cublas_set_up_for_the_same_bits():
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # from importing transenc


def test_weights_that_are_not_used_have_no_gradient(bert):
    encoder = prepared("bi", bert).train()
    encoder.unused = nn.Parameter(torch.ones(2))
    GraphedForward(encoder, clip=1.0)(batch(encoder, 0, 1)).sum().backward()
    assert encoder.unused.grad is None


def test_lengths_are_rounded_up_by_an_eighth_or_to_a_multiple_of_16():
    assert [rounded(length) for length in (1, 16, 17, 128, 129, 255, 257, 512)] == [16, 16, 32, 128, 144, 256, 288, 512]
    assert all(length <= rounded(length) < max(length + 16, 1.13 * length) for length in range(1, 4000))
