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
def test_code_in_pickled_weights_never_runs_and_is_refused_with_the_way_out(folder, tmp_path, form, hidden):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    bomb = Bomb(tmp_path / "ran")
    PICKLERS[form]({**weights, "x": bomb} if hidden else bomb, folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model.bin is damaged, or holds more than tensors.*copy it again, or take .* safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.pkl", "tf_model.h5", "other.bin", "adapter_model.safetensors"])
def test_weights_of_other_names_are_not_taken_for_the_models(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "holds no weights that are read, model.safetensors or pytorch_model.bin")


CONTENTS = {
    "nested": lambda weights: {"state_dict": weights},
    "a number": lambda weights: {**weights, "epoch": 3},
    "a tensor": lambda weights: weights["pooler.dense.bias"],
    "a sparse tensor": lambda weights: {**weights, QUERY: torch.zeros(32, 32).to_sparse()},
    "a view of 4 terabytes": lambda weights: {**weights, QUERY: torch.zeros(1).expand(10**6, 10**6)},
    "names that are none": lambda weights: dict(enumerate(weights.values())),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_pickle_that_holds_more_than_tensors_by_name_is_refused(folder, content):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(CONTENTS[content](weights), folder / "pytorch_model.bin")
    refused(folder, "holds more than tensors by name")


@pytest.mark.parametrize("damage", ["cut in the middle", "empty"])
def test_a_damaged_pickle_is_one_line(folder, damage):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(HEADERS[damage]((folder / "pytorch_model.bin").read_bytes()))
    refused(folder, "pytorch_model.bin is damaged")


def test_pickled_weights_of_old_names_and_half_precision_load_and_are_checked_like_any(folder):
    """Gamma and beta, a prefix, buffers and other heads beside the weights: as BERT's first checkpoints."""
    expected = BiEncoder.load(folder).predict(PAIRS)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {f"bert.{name}": weight.half() for name, weight in weights.items()}
    old = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): w for name, w in old.items()}
    old |= {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(9)}
    torch.save(old, folder / "pytorch_model.bin")
    np.testing.assert_allclose(BiEncoder.load(folder).predict(PAIRS), expected, atol=0.01)
    torch.save(old | {f"bert.{QUERY}": torch.full((32, 32), float("nan"))}, folder / "pytorch_model.bin")
    refused(folder, "holds values that are no numbers")
    torch.save(old | {f"bert.{QUERY}": torch.zeros(3, 3)}, folder / "pytorch_model.bin")
    refused(folder, r"is \[3, 3\] in the weights, \[32, 32\] by config.json")
    del old[f"bert.{QUERY}"]
    torch.save(old, folder / "pytorch_model.bin")
    refused(folder, f"its weights lack {QUERY}")


def test_a_pickle_beside_the_weights_is_never_opened(folder, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for name in ("pytorch_model.bin", "training_args.bin", "scheduler.pt", "optimizer.pt", "rng_state.pth", "x.pkl"):
        (folder / name).write_bytes(bomb)
    BiEncoder.load(folder).save(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    pickle.loads(bomb)  # the bomb is live: without this a dud would pass for a refusal
    assert (tmp_path / "ran").exists()


def test_a_configuration_cannot_name_other_weights(folder, tmp_path):
    torch.save({"x": torch.zeros(1)}, folder / "other.bin")
    expected = BiEncoder.load(folder).predict(PAIRS)
    for name in ("other.bin", "../other.safetensors", "/etc/passwd"):
        change(folder / "config.json", transformers_weights=name)
        assert BiEncoder.load(folder).predict(PAIRS).tolist() == expected.tolist()


HEADERS = {
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a header of 4 exabytes": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "a header of 90 megabytes": lambda whole: (90_000_000).to_bytes(8, "little") + whole[8:],
    "a header that is not JSON": lambda whole: whole[:8] + b"x" * (len(whole) - 8),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_a_damaged_weight_file_is_one_line(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(HEADERS[damage](path.read_bytes()))
    refused(folder, "weights cannot be loaded")
    refused(folder, "weights cannot be loaded", CrossEncoder, new_head=0)


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, cls, value):
    spoil(folder, lambda weights: weights[QUERY].view(-1)[5:6].fill_(value))
    refused(
        folder, f"{QUERY} holds values that are no numbers", cls, **({"new_head": 0} if cls is CrossEncoder else {})
    )


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
def test_missing_and_misshapen_weights_are_refused_by_name(folder, cls):
    settings = {"new_head": 0} if cls is CrossEncoder else {}
    spoil(folder, lambda weights: weights.update({QUERY: torch.zeros(3, 3)}))
    refused(folder, rf"{QUERY} is \[3, 3\] in the weights, \[32, 32\] by config.json", cls, **settings)
    spoil(folder, lambda weights: weights.pop(QUERY))
    refused(folder, f"its weights lack .*{QUERY}", cls, **settings)


def test_a_new_head_and_its_pooler_may_be_missing_and_a_trained_ones_may_not(folder, tmp_path):
    spoil(folder, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("pooler")])
    BiEncoder.load(folder)
    CrossEncoder.load(folder, new_head=0).save(tmp_path / "trained")
    CrossEncoder.load(tmp_path / "trained")
    spoil(tmp_path / "trained", lambda weights: weights.pop("classifier.weight"))
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder)
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder, new_head=0)


@pytest.mark.parametrize("shard", ["../out.safetensors", "/out.safetensors", "a/../../out.safetensors", "out.bin", 5])
def test_a_shard_outside_the_folder_or_pickled_is_refused(folder, shard):
    weights = folder / "model.safetensors"
    names = dict.fromkeys(load_file(weights), shard)
    shutil.copy(weights, folder.parent / "out.safetensors")
    weights.rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    BiEncoder.load(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refused(folder, "index.json: names .*(no path inside the model's folder|only .safetensors files)")
