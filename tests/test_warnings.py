"""Which selected encoders a run advises against, and what it says of those that training did not improve."""

from pathlib import Path

import numpy as np
import pandas
import pytest

from transenc.artifacts import Artifact
from transenc.config.schema import Select
from transenc.metrics import bootstrap
from transenc.results import Row
from transenc.selection import Selected, note, warning
from transenc.stages.evaluation import Member


@pytest.mark.parametrize("well_pooled", [True, False])
@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_without_gold_scores_a_cross_encoder_is_warned_of_where_the_bi_encoder_was_well_pooled(kind, well_pooled):
    member = Member(kind, 1, 0, False, Artifact(Path(), "", {"selection": 0.95}))
    text = warning(member, [], Select.agreement, [], {0: well_pooled})
    assert (text is None) == (kind == "bi" or not well_pooled)
    scored = [Row(i, encoder, 0, "test", 9, 0.5, 0.5) for i, encoder in ((0, "bi"), (1, kind))]
    assert warning(member, scored, Select.agreement, ["test"], {0: well_pooled}) is None  # known better


@pytest.mark.parametrize(("error", "told"), [(0.005, True), (0.02, False), (float("nan"), True)])
def test_a_loss_within_the_standard_error_is_no_reason_against_an_encoder(error, told):
    member = Member("bi", 1, 0, False, Artifact(Path(), "", {}))
    scored = [Row(i, "bi", 0, "test", 9, 0.5 - 0.01 * i, 0.5) for i in (0, 1)]
    text = warning(member, scored, Select.last, ["test"], standard_error=lambda number, on: error)
    assert (text is not None) == told


def test_the_standard_error_is_of_the_sets_with_a_defined_result_alone():
    member, asked = Member("bi", 1, 0, False, Artifact(Path(), "", {})), []
    scored = [
        Row(i, "bi", 0, task, 9, value, value)
        for i in (0, 1)
        for task, value in (("x", 0.5 - 0.1 * i), ("y", float("nan")))
    ]
    warning(member, scored, Select.last, ["x", "y"], standard_error=lambda number, on: asked.append(list(on)) or 0.0)
    assert asked == [["x"]]


def test_the_standard_error_is_that_of_a_paired_bootstrap_over_the_test_pairs(setting, monkeypatch):
    asked = []

    def told(*given):
        *_, error = given
        asked.append(error(0, ["test"]))
        return None

    monkeypatch.setattr("transenc.run_writer.warning", told)
    folder = setting.run("save_predictions=true", "distill.select=last")
    columns = {
        place: pandas.read_csv(folder / "predictions" / f"{place}-test.csv") for place in ("0-bi", "1-bi", "1-cross")
    }
    for place in ("1-bi", "1-cross"):
        raws = [columns[one].score.to_numpy() for one in ("0-bi", place)]
        values = bootstrap(raws, columns[place].gold.to_numpy(), False, 200)
        assert any(one == pytest.approx(np.std(values[:, 1] - values[:, 0]), rel=1e-4) for one in asked)


def test_each_cross_encoder_that_one_bi_encoder_taught_is_compared_with_it():
    member = Member("cross", 1, 1, True, Artifact(Path(), "", {}))
    scored = [Row(0, "bi", 0, "test", 9, 0.5, 0.5), Row(1, "cross", 1, "test", 9, 0.2, 0.2)]
    assert warning(member, scored, Select.last, ["test"]) == "20.00 on test, below the initial bi-encoder's 50.00"
    assert "well pooled" in warning(member, [], Select.last, [], {0: True})


def test_an_encoder_is_compared_with_the_mean_centred_initial_one_where_there_is_one():
    member = Member("bi", 1, 0, False, Artifact(Path(), "", {}))
    values = {(0, "bi"): 0.3, (0, "bi-centred"): 0.5, (1, "bi"): 0.4}
    scored = [Row(*place, 0, "test", 9, value, value) for place, value in values.items()]
    text = warning(member, scored, Select.last, ["test"])
    assert text == "40.00 on test, below the mean-centred initial bi-encoder's 50.00"


@pytest.mark.parametrize("place", ["1/bi", "1/bi/fold-1"])
def test_the_encoder_that_stands_in_a_failed_ones_place_is_named(place):
    selected = Selected(Member("bi", 1, 0, False, Artifact(Path(), "", {})), None)
    failure = {"place": place, "reasons": ["it collapsed"], "kept": "0/bi"}
    assert note(selected, Select.last, [failure]) == "1/bi: its training failed; 0/bi is saved."
    assert note(selected, Select.last, [failure | {"kept": None}]) is None
    assert note(selected, Select.last, [failure | {"kept": place}]) is None


def test_human_scores_are_no_teacher_that_a_cross_encoder_has_to_agree_with():
    member = Member("cross", 1, 0, False, Artifact(Path(), "", {"selection": 0.7, "held_out": 10}))
    assert "below 0.8" in warning(member, [], Select.agreement, [])
    assert warning(member, [], Select.agreement, [], supervised=True) is None
