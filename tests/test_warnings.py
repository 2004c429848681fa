"""Which selected encoders a run advises against, and what it says of those that training did not improve."""

from pathlib import Path

import pytest

from transenc.artifacts import Artifact
from transenc.config.schema import Select
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


def test_each_cross_encoder_that_one_bi_encoder_taught_is_compared_with_it():
    member = Member("cross", 1, 1, True, Artifact(Path(), "", {}))
    scored = [Row(0, "bi", 0, "test", 9, 0.5, 0.5), Row(1, "cross", 1, "test", 9, 0.2, 0.2)]
    assert warning(member, scored, Select.last, ["test"]) == "20.00 on test, below the initial bi-encoder's 50.00"
    assert "well pooled" in warning(member, [], Select.last, [], {0: True})


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
