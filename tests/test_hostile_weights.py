"""Weights that were downloaded are not trusted: what is pickled, damaged or misshapen is refused, and runs nothing."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import PAIRS, QUERY, refused, spoil
from safetensors.torch import load_file
from standin import change

from transenc.encoders import BiEncoder, CrossEncoder


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


PICKLERS = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "plain": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("form", PICKLERS)
@pytest.mark.parametrize("hidden", [False, True], ids=["alone", "among the weights"])
def test_code_in_pickled_weights_never_runs_and_is_refused_with_the_way_out(model_copy, tmp_path, form, hidden):
    weights = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    bomb = Bomb(tmp_path / "ran")
    PICKLERS[form]({**weights, "x": bomb} if hidden else bomb, model_copy / "pytorch_model.bin")
    refused(
        model_copy, r"pytorch_model.bin is damaged, or holds more than tensors.*copy it again, or take .* safetensors"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.pkl", "tf_model.h5", "other.bin", "adapter_model.safetensors"])
def test_weights_of_other_names_are_not_taken_for_the_models(model_copy, name):
    (model_copy / "model.safetensors").rename(model_copy / name)
    refused(model_copy, "holds no weights that are read, model.safetensors or pytorch_model.bin")


CONTENTS = {
    "nested": lambda weights: {"state_dict": weights},
    "a number": lambda weights: {**weights, "epoch": 3},
    "a tensor": lambda weights: weights["pooler.dense.bias"],
    "a sparse tensor": lambda weights: {**weights, QUERY: torch.zeros(32, 32).to_sparse()},
    "a view of 4 terabytes": lambda weights: {**weights, QUERY: torch.zeros(1).expand(10**6, 10**6)},
    "names that are none": lambda weights: dict(enumerate(weights.values())),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_pickle_that_holds_more_than_tensors_by_name_is_refused(model_copy, content):
    weights = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    torch.save(CONTENTS[content](weights), model_copy / "pytorch_model.bin")
    refused(model_copy, "holds more than tensors by name")


@pytest.mark.parametrize("damage", ["cut in the middle", "empty"])
def test_a_damaged_pickle_is_one_line(model_copy, damage):
    torch.save(load_file(model_copy / "model.safetensors"), model_copy / "pytorch_model.bin")
    (model_copy / "model.safetensors").unlink()
    (model_copy / "pytorch_model.bin").write_bytes(HEADERS[damage]((model_copy / "pytorch_model.bin").read_bytes()))
    refused(model_copy, "pytorch_model.bin is damaged")


def test_pickled_weights_of_old_names_and_half_precision_load_and_are_checked_like_any(model_copy):
    """Gamma and beta, a prefix, buffers and other heads beside the weights: as BERT's first checkpoints."""
    expected = BiEncoder.load(model_copy).predict(PAIRS)
    weights = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    old = {f"bert.{name}": weight.half() for name, weight in weights.items()}
    old = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): w for name, w in old.items()}
    old |= {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(9)}
    torch.save(old, model_copy / "pytorch_model.bin")
    np.testing.assert_allclose(BiEncoder.load(model_copy).predict(PAIRS), expected, atol=0.01)
    torch.save(old | {f"bert.{QUERY}": torch.full((32, 32), float("nan"))}, model_copy / "pytorch_model.bin")
    refused(model_copy, "holds NaN or infinite values")
    torch.save(old | {f"bert.{QUERY}": torch.zeros(3, 3)}, model_copy / "pytorch_model.bin")
    refused(model_copy, r"is \[3, 3\] in the weights, \[32, 32\] by config.json")
    del old[f"bert.{QUERY}"]
    torch.save(old, model_copy / "pytorch_model.bin")
    refused(model_copy, f"its weights lack {QUERY}")


def test_a_pickle_beside_the_weights_is_never_opened(model_copy, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for name in ("pytorch_model.bin", "training_args.bin", "scheduler.pt", "optimizer.pt", "rng_state.pth", "x.pkl"):
        (model_copy / name).write_bytes(bomb)
    BiEncoder.load(model_copy).save(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    pickle.loads(bomb)  # the bomb is live: without this a dud would pass for a refusal
    assert (tmp_path / "ran").exists()


def test_a_configuration_cannot_name_other_weights(model_copy, tmp_path):
    torch.save({"x": torch.zeros(1)}, model_copy / "other.bin")
    for name in ("other.bin", "../other.safetensors", "/etc/passwd"):
        change(model_copy / "config.json", transformers_weights=name)
        refused(model_copy, "transformers_weights names other weights, which is not supported; remove the key")


HEADERS = {
    "cut in the middle": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a header of 4 exabytes": lambda content: (2**62).to_bytes(8, "little") + content[8:],
    "a header of 90 megabytes": lambda content: (90_000_000).to_bytes(8, "little") + content[8:],
    "a header that is not JSON": lambda content: content[:8] + b"x" * (len(content) - 8),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_a_damaged_weight_file_is_one_line(model_copy, damage):
    path = model_copy / "model.safetensors"
    path.write_bytes(HEADERS[damage](path.read_bytes()))
    refused(model_copy, "weights cannot be loaded")
    refused(model_copy, "weights cannot be loaded", CrossEncoder, new_head=0)


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_weights_are_refused_by_name(model_copy, cls, value):
    spoil(model_copy, lambda weights: weights[QUERY].view(-1)[5:6].fill_(value))
    refused(
        model_copy, f"{QUERY} holds NaN or infinite values", cls, **({"new_head": 0} if cls is CrossEncoder else {})
    )


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
def test_missing_and_misshapen_weights_are_refused_by_name(model_copy, cls):
    settings = {"new_head": 0} if cls is CrossEncoder else {}
    spoil(model_copy, lambda weights: weights.update({QUERY: torch.zeros(3, 3)}))
    refused(model_copy, rf"{QUERY} is \[3, 3\] in the weights, \[32, 32\] by config.json", cls, **settings)
    spoil(model_copy, lambda weights: weights.pop(QUERY))
    refused(model_copy, f"its weights lack .*{QUERY}", cls, **settings)


def test_a_new_head_and_its_pooler_may_be_missing_and_a_trained_ones_may_not(model_copy, tmp_path):
    spoil(model_copy, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("pooler")])
    BiEncoder.load(model_copy)
    CrossEncoder.load(model_copy, new_head=0).save(tmp_path / "trained")
    CrossEncoder.load(tmp_path / "trained")
    spoil(tmp_path / "trained", lambda weights: weights.pop("classifier.weight"))
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder)
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder, new_head=0)


@pytest.mark.parametrize("shard", ["../out.safetensors", "/out.safetensors", "a/../../out.safetensors", "out.bin", 5])
def test_a_shard_outside_the_folder_or_pickled_is_refused(model_copy, shard):
    weights = model_copy / "model.safetensors"
    names = dict.fromkeys(load_file(weights), shard)
    shutil.copy(weights, model_copy.parent / "out.safetensors")
    weights.rename(model_copy / "part.safetensors")
    index = model_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    BiEncoder.load(model_copy)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refused(model_copy, "index.json: names .*(no path inside the model's folder|only .safetensors files)")
