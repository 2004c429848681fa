"""LoRA, parts of batches, gradient checkpointing: what is trained, what is kept, what loads elsewhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import PAIRS, refused, weights
from families import FOLDERS, build, gpt2
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers import SentenceTransformer
from standin import change
from transformers import AutoConfig, BertModel

from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, CrossEncoder, OptimizerConfig
from transenc.errors import InputError
from transenc.training import TrainingFailed

LORA = (
    "distill.bi.lora_rank=4", "distill.cross.lora_rank=4", "distill.bi.learning_rate=1e-2",
    "distill.cross.learning_rate=1e-2", "distill.select=last", "distill.failure=ignore",
)  # fmt: skip


def theirs(folder, predictions, kind):
    pairs = list(zip(predictions.sentence1, predictions.sentence2, strict=True))
    if kind == "cross":
        return TheirCrossEncoder(str(folder), device="cpu").predict([list(pair) for pair in pairs])
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (model.encode(list(side), normalize_embeddings=True) for side in zip(*pairs, strict=True))
    return (first * second).sum(1)


@pytest.mark.parametrize("adapters", ["merged", "separate"])
@pytest.mark.parametrize("family", ["bert", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_a_student_of_lora_scores_in_sentence_transformers_as_the_run_did_merged_or_separate(
    setting, tmp_path, family, adapters
):
    model = build(family, tmp_path / "initial")
    run = setting.run(
        f"model.bi={model}", f"model.cross={model}", "model.pooling=mean", f"distill.adapters={adapters}", *LORA
    )
    for kind, loader in (("bi", BiEncoder), ("cross", CrossEncoder)):
        folder = run / "models" / f"{kind}-encoder"
        predictions = pandas.read_csv(run / "predictions" / f"1-{kind}-test.csv")
        np.testing.assert_allclose(theirs(folder, predictions, kind), predictions.score, atol=1e-5)
        pairs = list(zip(predictions.sentence1, predictions.sentence2, strict=True))
        np.testing.assert_allclose(loader.load(folder).predict(pairs), predictions.score, atol=1e-5)
        separate = adapters == "separate"
        assert (folder / "adapter_model.safetensors").exists() == separate
        assert (folder / "model.safetensors").exists() != separate
        assert not (folder / "adapter").exists()
        if separate:
            settings = json.loads((folder / "adapter_config.json").read_text())
            assert settings["base_model_name_or_path"] == str(model.resolve())
            assert (folder / "adapter_model.safetensors").stat().st_size < (model / "model.safetensors").stat().st_size


def test_an_adapter_fits_a_base_model_with_a_pooler_however_many_layers_it_has(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "base")
    config = AutoConfig.from_pretrained(bert, num_hidden_layers=4)  # 24 matrices, which peft names by their last names
    BertModel(config).save_pretrained(tmp_path / "base")
    encoder = BiEncoder.load(tmp_path / "base", pooling="mean")
    encoder.add_lora(2)
    torch.manual_seed(0)
    for name, weight in encoder.named_parameters():
        weight.data += 0.1 * torch.randn_like(weight) * ("lora_" in name)
    expected = encoder.predict(PAIRS)
    (tmp_path / "adapter").mkdir()
    encoder.save_adapter(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    np.testing.assert_allclose(BiEncoder.load(tmp_path / "adapter", pooling="mean").predict(PAIRS), expected, atol=1e-5)


def test_an_adapter_that_lacks_a_part_of_the_head_is_refused_by_name(bert, tmp_path):
    """The library peft saves the linear layer of a head, and not the pooler below it, which the base may not have."""
    encoder = CrossEncoder.load(bert, new_head=1)
    encoder.add_lora(2)
    (tmp_path / "adapter").mkdir()
    encoder.save_adapter(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(bert))
    CrossEncoder.load(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if ".pooler." not in name}, path)
    base = Path(shutil.copytree(bert, tmp_path / "base"))
    BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(base)
    settings = {"base_model_name_or_path": str(base), "modules_to_save": ["classifier"]}
    change(tmp_path / "adapter" / "adapter_config.json", **settings)
    refused(tmp_path / "adapter", r"neither the adapter nor .*base has bert.pooler.dense.bias; merge", CrossEncoder)


def test_an_adapter_says_which_token_pads_where_its_base_model_does_not(tmp_path):
    build("qwen3", tmp_path / "base")
    change(tmp_path / "base" / "config.json", pad_token_id=None)
    encoder = CrossEncoder.load(tmp_path / "base", new_head=1)
    encoder.add_lora(2)
    (tmp_path / "adapter").mkdir()
    encoder.save_adapter(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    theirs = TheirCrossEncoder(str(tmp_path / "adapter"), device="cpu")
    expected = encoder.predict(PAIRS)
    np.testing.assert_allclose(theirs.predict([list(pair) for pair in PAIRS], batch_size=3), expected, atol=1e-5)
    np.testing.assert_allclose(CrossEncoder.load(tmp_path / "adapter").predict(PAIRS), expected, atol=1e-5)


def test_an_adapter_names_its_layers_in_one_order(bert, tmp_path):
    encoder = BiEncoder.load(bert, pooling="mean")
    encoder.add_lora(2)
    encoder.save_adapter(tmp_path)
    layers = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert layers == sorted(layers)
    assert len(layers) > 2


def test_an_adapter_of_another_type_is_refused_by_name(bert, tmp_path):
    encoder = BiEncoder.load(bert, pooling="mean")
    encoder.add_lora(2)
    (tmp_path / "adapter").mkdir()
    encoder.save_adapter(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(bert), peft_type="PROMPT_TUNING")
    refused(tmp_path / "adapter", "an adapter of type 'PROMPT_TUNING', and LORA and IA3 are read")


def test_with_lora_the_backbones_own_weights_stay_and_adapters_and_head_are_trained(bert):
    encoder = CrossEncoder.load(bert, new_head=0)
    encoder.add_lora(4)
    names = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert {name for name in names if "lora_" not in name} == {
        f"backbone.{module}.modules_to_save.default.{part}"
        for module in ("classifier", "bert.pooler")
        for part in (("weight", "bias") if module == "classifier" else ("dense.weight", "dense.bias"))
    }
    assert set(encoder.trained_state()) == names


def test_a_fresh_adapter_changes_no_score_and_a_trained_one_does_before_and_after_it_is_merged(bert):
    encoder = BiEncoder.load(bert, pooling="mean")
    before = encoder.predict(PAIRS)
    encoder.add_lora(4)
    np.testing.assert_allclose(encoder.predict(PAIRS), before, atol=1e-6)
    torch.manual_seed(0)
    for weight in encoder.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted = encoder.predict(PAIRS)
    assert np.abs(adapted - before).max() > 0.01
    encoder.merge_lora()
    np.testing.assert_allclose(encoder.predict(PAIRS), adapted, atol=1e-5)
    assert all(weight.requires_grad for weight in encoder.parameters())


@pytest.mark.slow
def test_an_interrupted_training_of_lora_ends_in_the_same_weights(setting, monkeypatch):
    whole = weights(setting.run(*LORA, "distill.bi.epochs=3", "paths.artifacts=" + str(setting.root / "other")))

    class InterruptedError(Exception):
        pass

    from transenc.training import TrainingCallback

    write = TrainingCallback.write_checkpoint

    def stop(self, trainer, step, student):
        write(self, trainer, step, student)
        assert "lora_A" in "".join(self.checkpoint.read()["student"])
        assert len(self.checkpoint.read()["student"]) < len(student.state_dict())
        raise InterruptedError

    monkeypatch.setattr(TrainingCallback, "write_checkpoint", stop)
    with pytest.raises(InterruptedError):
        setting.run(*LORA, "distill.bi.epochs=3", name="resumed")
    monkeypatch.setattr(TrainingCallback, "write_checkpoint", write)
    assert weights(setting.run(*LORA, "distill.bi.epochs=3", name="resumed")) == whole


@pytest.mark.parametrize("loss", ["bce", "cosent"])
@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole(bert, kind, loss):
    def gradients(micro_batch, checkpointing=False):
        encoder = BiEncoder.load(bert, pooling="mean") if kind == "bi" else CrossEncoder.load(bert, new_head=0)
        encoder.optimizer_config, encoder.micro_batch = OptimizerConfig(loss, 1e-3, 0.0, 0.0), micro_batch
        if checkpointing:
            encoder.checkpoint_layers()
        for module in encoder.modules():
            if hasattr(module, "p"):
                module.p = 0.0
        tokens = encoder.tokenise(*number_sentences(PAIRS))
        inputs = encoder.collate(tokens, np.arange(len(PAIRS)), np.zeros(len(PAIRS), dtype=bool))
        labels = torch.linspace(0, 1, len(PAIRS))
        encoder.train()
        encoder.training_step({"inputs": inputs, "labels": labels, "weight": 1.0}, 0).backward()
        return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}

    whole = gradients(None)
    for other in (gradients(3), gradients(1), gradients(None, checkpointing=True)):
        assert set(other) == set(whole)
        for name, gradient in whole.items():
            # transformers' layers, which checkpointing takes, round otherwise than the CPU's
            torch.testing.assert_close(other[name], gradient, atol=5e-5, rtol=1e-4)


def test_parts_hold_the_activations_of_one_at_a_time(bert):
    held = []

    class Count(torch.nn.Module):
        def forward(self, x):
            held.append(len(x))
            return x

    encoder = CrossEncoder.load(bert, new_head=0).train()
    encoder.micro_batch = 2
    encoder.backbone.bert.embeddings.register_forward_hook(lambda module, inputs, output: held.append(len(output)))
    tokens = encoder.tokenise(*number_sentences(PAIRS))
    encoder(encoder.collate(tokens, np.arange(7), np.zeros(7, dtype=bool))).sum().backward()
    assert held == [2, 2, 2, 1, *held[4:]]
    assert sorted(held[4:]) == [1, 2, 2, 2]  # once more, for the gradient


def test_checkpointed_layers_are_computed_again_for_the_gradient(bert):
    encoder, ran = CrossEncoder.load(bert, new_head=0).train(), []
    encoder.checkpoint_layers()
    layer = encoder.backbone.bert.encoder.layer[0]
    layer.attention.register_forward_hook(lambda *_: ran.append(1))
    tokens = encoder.tokenise(*number_sentences(PAIRS))
    encoder(encoder.collate(tokens, np.arange(7), np.zeros(7, dtype=bool))).sum().backward()
    assert len(ran) == 2


@pytest.mark.slow
def test_a_run_in_parts_and_with_gradient_checkpointing_ends_near_the_plain_one(setting):
    plain = ("distill.select=last", "distill.failure=ignore")
    first = pandas.read_csv(setting.run(*plain) / "results.csv")
    more = [
        f"distill.{kind}.{key}"
        for kind in ("bi", "cross")
        for key in ("micro_batch_size=5", "gradient_checkpointing=true")
    ]
    other = pandas.read_csv(setting.run(*plain, *more, name="parts") / "results.csv")
    np.testing.assert_allclose(other.spearman, first.spearman, atol=0.1)
    assert not first.spearman.equals(other.spearman)  # dropout draws in another order


@pytest.fixture
def adapter(setting, bert, tmp_path):
    model = shutil.copytree(bert, tmp_path / "initial")
    run = setting.run(
        f"model.bi={model}", f"model.cross={model}", "model.pooling=mean", "distill.adapters=separate", *LORA
    )
    return run / "models" / "bi-encoder"


def test_an_adapter_whose_base_is_missing_is_one_line(adapter, tmp_path):
    (tmp_path / "initial").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"a LoRA adapter, whose base model is missing: .*initial: no such folder"):
        BiEncoder.load(adapter)


def test_an_adapter_without_weights_or_of_another_model_is_one_line(adapter, models):
    change(adapter / "adapter_config.json", base_model_name_or_path=str(models["distilbert"]))
    with pytest.raises(InputError, match=r"its LoRA adapter does not fit .*distilbert"):
        BiEncoder.load(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks adapter_model.safetensors, the weights of its LoRA adapter"):
        BiEncoder.load(adapter)


def test_an_adapter_of_what_others_cannot_load_as_its_base_is_refused(setting, adapter, bert, tmp_path):
    more = ["model.pooling=mean", "distill.adapters=separate", *LORA]
    with pytest.raises(InputError, match=r"bi-encoder: is an adapter itself, .*; set distill.adapters=merged"):
        setting.run(f"model.bi={adapter}", f"model.cross={bert}", *more, name="second")
    root = tmp_path / "older"
    shutil.copytree(bert, root / "0_Transformer")
    module = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (root / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(InputError, match="has its weights in 0_Transformer/, and no adapter can name it"):
        setting.run(f"model.bi={root}", f"model.cross={bert}", *more, name="third")


def test_lora_is_refused_where_no_layer_is_linear(tmp_path):
    with pytest.raises(InputError, match="lora_rank=4: GPT2Model have no linear layers to adapt; set it to 0"):
        BiEncoder.load(gpt2(tmp_path / "gpt2"), pooling="mean").add_lora(4)


@pytest.mark.slow
def test_a_loop_starts_from_an_adapter(setting, adapter):
    run = setting.run(f"model.bi={adapter}", "distill.select=last", "distill.failure=ignore", name="second")
    assert (run / "models" / "bi-encoder" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distill.bi.lora_rank=0", "set distill.bi.lora_rank above 0"),
        ("model.bi_layers=2", "set model.bi_layers=null"),
        ("distill.start=previous", "set distill.start=base"),
        ("distill.centre=students", "set distill.centre=none"),
    ],
)
def test_an_adapter_of_a_model_that_was_changed_is_refused_before_anything_runs(setting, override, says):
    with pytest.raises(
        InputError, match=f"distill.adapters=separate: an adapter fits the initial model as it is; {says}"
    ):
        setting.run("distill.adapters=separate", *LORA, override)


def test_static_embeddings_have_no_layers_for_lora(setting, tmp_path):
    static = FOLDERS["StaticEmbedding"](tmp_path)
    with pytest.raises(InputError, match="lora_rank=4: StaticEmbeddings have no linear layers to adapt; set it to 0"):
        setting.run(f"model.bi={static}", *LORA)
    with pytest.raises(InputError, match="gradient_checkpointing: a StaticEmbeddings does not support it"):
        setting.run(f"model.bi={static}", "distill.bi.gradient_checkpointing=true", "distill.failure=ignore")


def test_of_a_failed_training_with_lora_only_the_curve_is_kept(setting, monkeypatch):
    def collapsed(*_):
        raise TrainingFailed("it collapsed", "nan")

    monkeypatch.setattr("transenc.training.check_collapse", collapsed)
    with pytest.raises(InputError, match="1/cross failed with one seed: it collapsed"):
        setting.run("distill.cross.lora_rank=4")
    (folder,) = (setting.root / "artifacts").glob("train-*")
    assert {path.name for path in folder.iterdir()} == {"artifact.json", "curve.jsonl"}
