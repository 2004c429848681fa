"""Models by their hub names: the default command against a stand-in hub, offline, pinned; failures in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import standin
from conftest import PAIRS
from families import FOLDERS

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.model_folder import find, name_base

ROOT = Path(__file__).parents[1]
SIMCSE, ROBERTA = "princeton-nlp/unsup-simcse-roberta-base", "FacebookAI/roberta-base"


@pytest.fixture(scope="module")
def repositories(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    standin.lay(root, models)
    return root


@pytest.fixture
def hub(repositories, tmp_path, monkeypatch):
    """A hub of its own, which this process asks, and an empty cache."""
    root = Path(shutil.copytree(repositories, tmp_path / "repositories"))
    with standin.Hub(root) as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def downloaded(hub):
    """The names of the files that were requested."""
    return {path.rpartition("/")[2] for path in hub.requested if "/resolve/" in path}


def refusal(name):
    with pytest.raises(InputError) as error:
        find(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_the_default_command_runs_from_the_hub_and_again_without_it(repositories, files, tmp_path):
    """`python train.py distill.iterations=3 model.cross=roberta-base`, on few pairs."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment["HF_HOME"] = str(tmp_path / "home")
    data = ["data=pairs", f"data.path={files}/pool.tsv", f"data.dev={files}/dev.tsv", f"data.test=[{files}/test.tsv]"]
    command = [sys.executable, "train.py", "distill.iterations=3", "model.cross=roberta-base", *data, "trainer=cpu"]
    command += ["trainer.precision=32-true", *(f"distill.{kind}.min_steps=0" for kind in ("bi", "cross"))]

    def run(name, **more):
        folders = [f"hydra.run.dir={tmp_path / name}", f"paths.artifacts={tmp_path / name}-artifacts"]
        done = subprocess.run(
            [*command, *folders], cwd=ROOT, env=environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    with standin.Hub(repositories) as hub:
        text = run("online", HF_ENDPOINT=hub.endpoint)
    assert "HTTP Request" not in text
    assert "its files name no pooling, and [CLS] is taken" in text
    assert {"pytorch_model.bin", "model.safetensors", "vocab.json", "merges.txt"} <= downloaded(hub)
    assert not downloaded(hub) & {"flax_model.msgpack", "tf_model.h5", "README.md"}
    files_of = [path.split("/resolve/")[0] for path in hub.requested if path.endswith("pytorch_model.bin")]
    assert set(files_of) == {SIMCSE}  # RoBERTa has safetensors, so its pickle is left where it is
    assert not [path for path in hub.requested if "discussions" in path or "refs" in path or "convert" in path]
    run("offline", HF_HUB_OFFLINE="1")
    for name in ("bi-encoder", "cross-encoder"):
        online, offline = (tmp_path / run / "models" / name / "model.safetensors" for run in ("online", "offline"))
        assert online.read_bytes() == offline.read_bytes()


def test_a_model_of_pickled_weights_scores_as_the_same_model_of_safetensors(hub, models):
    scores = [BiEncoder.load(name, pooling="cls").predict(PAIRS) for name in (SIMCSE, models["roberta"])]
    np.testing.assert_array_equal(*scores)


def test_an_old_name_leads_to_the_repository_it_was_moved_to(hub, models):
    scores = [CrossEncoder.load(name, new_head=0).predict(PAIRS) for name in ("roberta-base", ROBERTA)]
    np.testing.assert_array_equal(*scores)
    assert find("roberta-base").folder.name == standin.COMMIT


@pytest.mark.parametrize("name", [SIMCSE, ROBERTA])
def test_weights_in_several_files_are_all_downloaded_and_the_same(hub, models, name):
    if name == ROBERTA:
        (hub.root / name / "pytorch_model.bin").unlink()
    standin.split_weights(hub.root / name)
    scores = [CrossEncoder.load(model, new_head=0).predict(PAIRS) for model in (name, models["roberta"])]
    np.testing.assert_array_equal(*scores)
    assert len(find(name).weights) == 2


def test_a_pinned_revision_loads_and_once_it_has_been_loaded_offline_too(hub, monkeypatch):
    pinned = f"{SIMCSE}@{standin.COMMIT}"
    online = find(pinned)
    assert online.folder.name == standin.COMMIT
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find(pinned) == online
    assert "HF_HUB_OFFLINE=0" in refusal(f"{SIMCSE}@v2")


def test_a_revision_that_is_not_there_is_reported_with_the_remedy(hub):
    assert "Invalid rev id: v9" in (line := refusal(f"{SIMCSE}@v9"))
    assert "leave @... out for the newest" in line


@pytest.mark.slow
def test_a_download_that_was_cut_off_is_reported_and_resumed_next_time(hub):
    hub.cut = ".bin"
    line = refusal(SIMCSE)
    assert "pytorch_model.bin could not be downloaded (" in line
    assert "try again" in line
    hub.cut = ""
    assert find(SIMCSE).weights[0].stat().st_size == (hub.root / SIMCSE / "pytorch_model.bin").stat().st_size


@pytest.mark.slow
def test_an_incomplete_model_in_the_cache_is_not_taken_for_a_whole_one_offline(hub, monkeypatch):
    hub.cut = ".bin"
    refusal(SIMCSE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nor has its cache pytorch_model.bin of such a model" in (line := refusal(SIMCSE))
    assert "try again with a network" in line


def test_a_wrong_name_says_what_the_hub_said_and_what_to_do(hub):
    line = refusal("princeton-nlp/unsup-simcse-roberta-bas")
    assert "neither a folder here nor a model on the hub that you may read (Invalid username or password)" in line
    assert "check the name or, for a private model, log in with 'hf auth login'" in line


LOG_IN = (
    "Access to model {} is restricted. You must have access to it and be authenticated to access it. Please log in."
)
ASK = "Access to model {} is restricted and you are not in the authorized list. Visit https://hub/{} to ask for access."


@pytest.mark.parametrize(("status", "words"), [(401, LOG_IN), (403, ASK)])
def test_a_gated_model_says_where_to_ask_for_access_and_how_to_log_in(hub, status, words):
    words = words.format(SIMCSE, SIMCSE)
    hub.refused[SIMCSE] = (status, "GatedRepo", words)
    line = refusal(SIMCSE)
    assert f"a gated model ({words.rstrip('.')}); ask for access at {hub.endpoint}/{SIMCSE}" in line
    assert "hf auth login" in line


def test_a_private_model_and_a_token_without_rights_are_reported(hub):
    hub.refused[SIMCSE] = (401, "", "Invalid username or password.")
    assert "for a private model, log in with 'hf auth login'" in refusal(SIMCSE)
    hub.refused[SIMCSE] = (403, "", "Your token has no read right for this repository.")
    assert "Your token has no read right for this repository" in (line := refusal(SIMCSE))
    assert "a token that may read it" in line


def test_a_hub_that_is_down_is_reported(hub):
    hub.refused[SIMCSE] = (503, "", "Service unavailable.")
    assert "config.json could not be downloaded (Service unavailable); try again" in refusal(SIMCSE)


def test_a_model_that_ships_a_sentencepiece_vocabulary_alone_loads(hub, tmp_path):
    """As microsoft/deberta-v3-*: spm.model, and half-precision pickled weights of a masked language model."""
    import sentencepiece
    import torch
    import transformers as hf
    from families import SMALL

    folder = hub.root / "microsoft" / "deberta-v3-small"
    folder.mkdir(parents=True)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentence for pair in PAIRS for sentence in pair))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spm"), vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]",
    )  # fmt: skip
    (folder / "spm.vocab").unlink()
    config = hf.DebertaV2Config(
        **SMALL, vocab_size=128, max_position_embeddings=64, relative_attention=True, pos_att_type=["p2c", "c2p"],
        type_vocab_size=0, position_biased_input=False,
    )  # fmt: skip
    torch.manual_seed(0)
    hf.AutoModelForMaskedLM.from_config(config).half().save_pretrained(folder)
    standin.pickle_weights(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("architectures")
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    encoder = CrossEncoder.load("microsoft/deberta-v3-small", new_head=0)
    assert encoder.tokenizer.tokenize("the dog")
    assert np.unique(encoder.predict(PAIRS)).size == len(PAIRS)


@pytest.mark.parametrize("name", ["Dense", "the layout of before 2021 (0_Transformer/)", "StaticEmbedding"])
def test_all_modules_of_a_hub_model_are_downloaded_and_nothing_else(hub, tmp_path, name):
    folder = FOLDERS[name](tmp_path)
    target = Path(shutil.copytree(folder, hub.root / "someone" / "modules"))
    (target / "onnx").mkdir()
    (target / "onnx" / "model.onnx").write_bytes(b"0")
    (target / "README.md").write_text("A card.")
    scores = [BiEncoder.load(model).predict(PAIRS) for model in ("someone/modules", folder)]
    np.testing.assert_array_equal(*scores)
    assert not downloaded(hub) & {"model.onnx", "README.md"}


def test_a_lora_adapter_on_the_hub_finds_its_base_there_too(hub, models, tmp_path):
    encoder = BiEncoder.load(models["roberta"], pooling="mean")
    encoder.add_lora(2)
    adapter = hub.root / "someone" / "adapter"
    adapter.mkdir(parents=True)
    encoder.save_adapter(adapter)
    name_base(adapter / "adapter_config.json", ROBERTA, None)
    np.testing.assert_allclose(
        BiEncoder.load("someone/adapter").predict(PAIRS),
        BiEncoder.load(models["roberta"], pooling="mean").predict(PAIRS),
        atol=1e-6,
    )
