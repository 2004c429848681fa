"""What goes to the hub, and that nothing does without --push."""

import dataclasses
import json

import huggingface_hub
import pytest
import yaml

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.model_card import card, public_name
from transenc.publish import main
from transenc.results import Row


@pytest.fixture
def run(bert, tmp_path):
    """A run folder with two models."""
    folder = tmp_path / "run"
    loaded = {"bi": BiEncoder.load(bert), "cross": CrossEncoder.load(bert, new_head=0)}
    for kind, encoder in loaded.items():
        model = folder / "models" / f"{kind}-encoder"
        model.mkdir(parents=True)
        encoder.save(model)
        row = Row(2, kind, 0, "stsb-test", 1379, 0.81234567, 0.8)
        text = card(
            kind,
            "princeton-nlp/sup",
            "princeton-nlp/sup",
            "made.",
            ["stsb-train", "mine.csv"],
            0,
            [row],
            "python train.py",
        )
        (model / "README.md").write_text(text)
    warnings, notes = {"cross": "it is worse"}, {"bi": "1/bi: the initial weights are kept."}
    (folder / "run.json").write_text(json.dumps({"stages": [], "warnings": warnings, "notes": notes}))
    for name in ("results.csv", "curves.csv"):
        (folder / name).touch()
    return folder


@pytest.fixture
def hub(monkeypatch):
    """What a hub would get: repository, private or not, files with their content."""
    sent = {}

    def create(self, repo_id, private=None, **_):
        sent[repo_id] = {"private": private}
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload(self, repo_id, folder_path, **_):
        from pathlib import Path

        folder = Path(folder_path)
        sent[repo_id]["files"] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return huggingface_hub.CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/0", commit_message="", commit_description="", oid="0"
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return sent


def test_without_push_it_says_what_would_be_sent_and_copies_and_sends_nothing(run, hub, capsys, monkeypatch):
    monkeypatch.delattr("shutil.copytree")
    main([str(run), "me/better"])
    output = capsys.readouterr().out
    assert "me/better-bi-encoder" in output
    assert "1_Pooling/config.json" in output
    assert "  1/bi: the initial weights are kept.\n" in output
    assert "  Do not use it: it is worse.\n" in output
    assert "Nothing was sent" in output
    assert hub == {}


def test_an_adapter_whose_base_model_nobody_else_has_is_refused(run, tmp_path):
    settings = run / "models" / "bi-encoder" / "adapter_config.json"
    settings.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(InputError, match=r"bi-encoder: an adapter of .*/base, which nobody else has; run again with"):
        main([str(run), "me/better"])
    settings.write_text(json.dumps({"base_model_name_or_path": "google-bert/bert-base-uncased"}))
    main([str(run), "me/better"])


def test_an_adapter_is_published_too(run, hub, capsys):
    (run / "models" / "bi-encoder" / "model.safetensors").rename(
        run / "models" / "bi-encoder" / "adapter_model.safetensors"
    )
    main([str(run), "me/better"])
    assert [line.split(" -> ")[0] for line in capsys.readouterr().out.splitlines() if " -> " in line] == [
        str(run / "models" / "bi-encoder"),
        str(run / "models" / "cross-encoder"),
    ]


def test_push_sends_both_models_with_cards_that_name_them(run, hub):
    main([str(run), "me/better", "--push", "--private"])
    assert set(hub) == {"me/better-bi-encoder", "me/better-cross-encoder"}
    for name, sent in hub.items():
        assert sent["private"] is True
        kind = name.removeprefix("me/better-")
        text = sent["files"]["README.md"].decode()
        assert f'"{name}"' in text
        assert "path/to/this/folder" not in text
        weights = run / "models" / kind / "model.safetensors"
        assert sent["files"]["model.safetensors"] == weights.read_bytes()
        assert "path/to/this/folder" in (run / "models" / kind / "README.md").read_text()  # the run's stays as it was


def test_a_card_holds_its_metrics_data_and_base_model_as_the_hub_reads_them(run):
    head = yaml.safe_load((run / "models" / "bi-encoder" / "README.md").read_text().split("---\n")[1])
    assert head["base_model"] == "princeton-nlp/sup"
    assert head["datasets"] == ["mteb/stsbenchmark-sts"]
    (result,) = huggingface_hub.ModelCard.load(run / "models" / "bi-encoder" / "README.md").data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("mteb/stsbenchmark-sts", "stsb-test")
    assert (result.metric_type, result.metric_value) == ("spearman", 0.812346)


@pytest.mark.parametrize("names", [("dev", "test"), ("stsb-dev", "stsb-test"), ("sts12", "sts13", "mine")])
def test_a_card_has_an_entry_of_its_own_for_each_data_set_as_the_hub_reads_them(tmp_path, names):
    rows = [Row(1, "bi", 0, name, 7, 0.1 * number, 0.5) for number, name in enumerate(names, 1)]
    (tmp_path / "README.md").write_text(card("bi", "x", "x", "made.", ["x"], 0, rows, "x"))
    results = huggingface_hub.ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {result.dataset_name: result.metric_value for result in results} == {
        row.task: pytest.approx(row.spearman) for row in rows
    }
    index = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])["model-index"][0]["results"]
    assert [len(entry["metrics"]) for entry in index] == [1] * len(names)


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_the_snippet_on_a_card_runs(run, kind, capsys):
    model = run / "models" / f"{kind}-encoder"
    snippet = (model / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(snippet.replace("path/to/this/folder", str(model)), {})
    assert capsys.readouterr().out.strip().endswith("]" if kind == "cross" else "])")


def test_what_the_hub_refuses_is_one_line(run, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no way\nto the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"me/better-bi-encoder: not pushed \(ConnectionError: no way to the hub\)"):
        main([str(run), "me/better", "--push"])


@pytest.mark.parametrize("name", ["a/b/c", "me/better!", "me/.."])
def test_a_name_that_no_repository_can_have_is_refused(run, hub, name):
    with pytest.raises(InputError, match="Repo id must"):
        main([str(run), name])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_card_that_cannot_be_read_is_one_line(run, hub, content):
    card = run / "models" / "bi-encoder" / "README.md"
    card.unlink()
    if content:
        card.write_bytes(content)
    with pytest.raises(InputError, match=r"README.md: there is no card that can be read .*; run again"):
        main([str(run), "me/better", "--push"])
    assert hub == {}


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        main([str(tmp_path), "me/better"])


NAMES = [
    "a\n---\nlicense: mit", "a: b # c", '"quoted" \\ \\n', "`code`", "``", "<script>alert(1)</script>", "a|b|c", "***",
    "", "- [x](y)", "\x00\x1b[31m\x85\u2028", "naïve 漢字 😀", "{{ x }}", "!!python/object:x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_a_card(name):
    rows = [Row(1, "bi", 0, name, 7, 0.5, 0.5, None, None)]
    assert "| task |" not in card("bi", "x", "x", "made.", ["x"], 0, [], "x")
    plain = card("bi", "x", "x", "made.", ["x"], 0, [dataclasses.replace(rows[0], task="x")], "x")
    text = card("bi", name, name, "made.", [name], 0, rows, name)
    (_, body), (_, plain_body) = (content.split("\n---\n", 1) for content in (text, plain))
    head, expected = (yaml.safe_load(content.split("\n---\n", 1)[0].removeprefix("---\n")) for content in (text, plain))
    assert "base_model" not in head
    assert expected.pop("base_model") == "x"
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert list(head) == list(expected)
    assert len(body.split("\n")) == len(plain_body.split("\n"))
    quoted = f"`{name}`" if "`" not in name else "``"
    for line in body.split("\n"):
        if line.startswith("| ") and "task" not in line:
            assert line.replace("\\|", "").count("|") == 5
            assert "<" not in line.replace("\\<", "")
        if line.startswith(("- Learnt", "- Command")) and name.isprintable():
            assert quoted in line


def test_a_card_tells_no_folder_of_the_machine_it_was_made_on():
    command = "python train.py 'model.bi=[/home/me/bi,package://p/model,a/b]' data.path=/home/me/pairs.csv x=~/runs/1"
    sources = ["/home/me/pairs.csv", "~/more.tsv", "stsb-train"]
    text = card("bi", public_name("/home/me/bi"), "/home/me/bi", "made.", sources, 0, [], command)
    assert "/me/" not in text
    assert "~" not in text
    assert "Learnt from: `pairs.csv`, `more.tsv`, `stsb-train`." in text
    assert "`python train.py 'model.bi=[bi,package://p/model,a/b]' data.path=pairs.csv x=1`" in text


def test_a_local_folder_is_no_base_model_whatever_its_name():
    text = card("bi", "models/bi", "/home/me/models/bi", "made.", ["x"], 0, [], "x")
    assert "base_model" not in text


@pytest.mark.parametrize(
    ("task", "files", "expected"),
    [
        ("stsb-dev", [], ("mteb/stsbenchmark-sts", "validation")), ("sts12", [], ("mteb/sts12-sts", "test")),
        ("sickr-all", [], ("mteb/sickr-sts", "test")), ("sickr-test", [], ("unknown", "sickr-test")),
        ("mrpc-test", [], ("nyu-mll/glue", "test")), ("qqp-test", [], ("unknown", "qqp-test")),
        ("sts12", ["sts12"], ("unknown", "sts12")), ("mine", ["mine"], ("unknown", "mine")),
    ],
)  # fmt: skip
def test_a_card_claims_a_result_on_a_set_of_the_hub_for_a_whole_split_of_it_alone(tmp_path, task, files, expected):
    row = Row(1, "bi", 0, task, 7, 0.1, 0.5)
    (tmp_path / "README.md").write_text(card("bi", "x", "x", "made.", ["x"], 0, [row], "x", files=files))
    (result,) = huggingface_hub.ModelCard.load(tmp_path / "README.md").data.eval_results
    assert (result.dataset_type, result.dataset_split) == expected


def test_a_run_without_notes_is_published(run, hub):
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"stages": facts["stages"]}))
    main([str(run), "me/better"])


def test_what_a_killed_run_left_is_not_published(run, hub):
    (run / "run.json").unlink()  # a run removes it when it begins
    with pytest.raises(InputError, match="no finished run"):
        main([str(run), "me/better", "--push"])
    assert hub == {}


def test_a_folder_that_a_killed_run_was_copying_is_no_model(run, hub):
    (run / "models" / "bi-encoder").rename(run / "models" / ".bi-encoder.part")
    main([str(run), "me/better", "--push"])
    assert list(hub) == ["me/better-cross-encoder"]
