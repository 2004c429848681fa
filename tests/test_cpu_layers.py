"""The fast layers compute what transformers' own do, for every family, padded or not, forwards and backwards."""

import numpy as np
import pytest
import torch
from conftest import PAIRS
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, cpu_layers
from transenc.encoders.cpu_layers import FAMILY, Dropout, speed_up


def load(kind, folder, fast, first_only=True):
    torch.manual_seed(0)
    model = kind.from_pretrained(folder, **({"num_labels": 1} if kind is not AutoModel else {})).eval()
    if fast:
        speed_up(model, first_only)
    return model


def inputs(folder, pairs=PAIRS):
    return AutoTokenizer.from_pretrained(folder)(pairs, padding=True, truncation=True, return_tensors="pt")


@pytest.fixture(params=FAMILY)
def folder(request, models):
    return models[request.param]


def test_logits_and_gradients_are_transformers_own(folder):
    batch = inputs(folder)
    results = []
    for fast in (False, True):
        model = load(AutoModelForSequenceClassification, folder, fast)
        logits = model(**batch).logits
        logits.square().sum().backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    assert results[0][1].keys() == results[1][1].keys()
    for name, grad in results[0][1].items():
        if grad is None or not grad.any():
            assert results[1][1][name] is None or not results[1][1][name].any(), name
        else:
            torch.testing.assert_close(
                results[1][1][name], grad, atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]], ids=["padded", "alone"])
def test_all_hidden_states_are_transformers_own(folder, pairs):
    batch = inputs(folder, pairs)
    with torch.no_grad():
        expected, found = (load(AutoModel, folder, fast, False)(**batch).last_hidden_state for fast in (False, True))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(expected[real], found[real], atol=1e-5, rtol=1e-5)


def test_training_mode_drops_and_evaluation_mode_does_not(folder):
    batch = inputs(folder)
    model = load(AutoModelForSequenceClassification, folder, True)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)
        model.train()
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
        torch.manual_seed(7)
        first = model(**batch).logits
        torch.manual_seed(7)
        assert torch.equal(first, model(**batch).logits)


def test_what_is_saved_stays_as_it_is(folder):
    assert load(AutoModel, folder, True).state_dict().keys() == load(AutoModel, folder, False).state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_dropout_keeps_the_mean_and_drops_its_share(dtype, p):
    torch.manual_seed(0)
    x = torch.ones(400, 1001, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.004)
    assert y.float().mean().item() == pytest.approx(1, abs=0.004)
    y.float().sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert Dropout(0.0)(x) is x


def test_an_encoder_without_them_is_transformers_own_and_scores_the_same(bert):
    encoder = BiEncoder.load(bert, pooling="cls")
    pairs = encoder.tokenise(*number_sentences(PAIRS))
    scores = encoder.similarities(pairs)
    encoder.use_cpu_layers(False)
    encoder.late_interaction(pairs, 4096)  # which turns them on and off for itself where the encoder has them
    assert not any(isinstance(module, Dropout) for module in encoder.modules())
    assert not hasattr(encoder.backbone.base_model.encoder, "plain")
    np.testing.assert_allclose(encoder.similarities(pairs), scores, atol=1e-5)


@pytest.mark.parametrize("on", [True, False])
def test_a_run_without_them_labels_trains_and_evaluates_by_transformers_layers(setting, monkeypatch, on):
    run, batches = cpu_layers.run, []

    def counted(layers, embedded, *more):
        batches.append(len(embedded))
        return run(layers, embedded, *more)

    monkeypatch.setattr(cpu_layers, "run", counted)
    setting.run(f"trainer.cpu_layers={on}", "distill.late_interaction=true", "distill.failure=ignore")
    assert (max(batches) > 4) == on  # a loaded encoder is tried, with two pairs
