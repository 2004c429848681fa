"""Which iteration's encoders are saved, and which of those are not worth using."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transenc.config.schema import Select
from transenc.metrics import MIN_HELD_OUT, ranked
from transenc.results import Key, Row
from transenc.stages.evaluation import Member

# Spearman with the teacher's labels. Each cross-encoder that was measured below it was worse than its teacher.
MIN_AGREEMENT = 0.8


@dataclass(frozen=True)
class Selected:
    """A selected encoder.

    Attributes:
        member: the encoder.
        score: its selection score, in [-1, 1]; None where it was not selected by one, or the score is undefined.
        note: that training did not improve it, if so.
        warning: why not to use it, if something speaks against it.
    """

    member: Member
    score: float | None
    note: str | None = None
    warning: str | None = None


def select(candidates: Sequence[Member], rows: Sequence[Row], by: Select, dev: str | None) -> list[Selected]:
    """The best iteration of each member, the earliest of equals.

    By development scores the initial encoder is a candidate too, and wins unless an iteration scores higher. By
    agreement it is none: a training that does not improve on its first weights puts these back (`note`).

    Args:
        candidates: the evaluated encoders of one kind, in the order of iterations.
        rows: their results.
        by: what they are compared by; not `auto`.
        dev: name of the development set; None if there is none.
    """
    best: dict[int, tuple[float, Selected]] = {}
    for member in candidates:
        if member.iteration == 0 and by is not Select.dev:
            continue
        if by is Select.dev:
            score = next(row.value for row in rows if row.key == member.key and row.task == dev)
        else:  # None with select=last, and where an initial encoder replaces a student whose training failed
            score = member.artifact.facts.get("selection")
        if by is Select.last:
            order = float(member.iteration or 0)
        else:  # weights that were put back agree with labels that they have not learnt
            order = ranked(None if by is Select.agreement and was_put_back(member) else score)
        if member.number not in best or order > best[member.number][0]:
            best[member.number] = order, Selected(member, None if score is None or math.isnan(score) else score)
    return [selected for _, selected in best.values()]


def mean_score(selected: Sequence[Selected]) -> float | None:
    """Of several selected encoders, in [-1, 1]; None where one of them has no score."""
    scores = [choice.score for choice in selected if choice.score is not None]
    return sum(scores) / len(scores) if scores and len(scores) == len(selected) else None


def was_put_back(member: Member) -> bool:
    """Whether training did not improve an encoder, and the weights that it began with are kept."""
    return member.artifact.facts.get("step") == 0


def note(selected: Selected, by: Select, failures: Sequence[Mapping[str, Any]] = ()) -> str | None:
    """A sentence on a selected encoder that training did not improve; None of any other.

    Args:
        selected: the encoder.
        by: what it was selected by.
        failures: of the run's trainings, see `Stages.failures`.
    """
    member = selected.member
    for failure in failures:
        place, kept = failure["place"], failure["kept"]
        if member.place in (place, place.partition("/fold-")[0]) and kept not in (None, place):
            return f"{member.place}: its training failed; {kept} is saved."
    if member.iteration == 0:
        return f"No iteration improved on the initial {member.name}: {member.place} is saved."
    if by is Select.agreement and was_put_back(member):
        before = "weights before it" if member.artifact.facts["trained"] else "initial weights"
        held_out = member.artifact.facts["held_out"]
        if held_out < MIN_HELD_OUT:
            why = f"{held_out} held-out pairs are too few to tell whether it improved (add pairs, or give data.dev)"
        else:
            why = "its agreement with held-out labels did not improve enough"
        return f"{member.place}: {why}; the {before} are kept."
    return None


def warning(
    member: Member,
    rows: Sequence[Row],
    by: Select,
    tasks: Sequence[str],
    well_pooled: Mapping[int, bool] = MappingProxyType({}),
    supervised: bool = False,
    standard_error: Callable[[int, Collection[str]], float] = lambda number, tasks: 0.0,
) -> str | None:
    """Why not to use a selected encoder; None if nothing speaks against it.

    An encoder that scores below the initial bi-encoder (of its number, else the first; mean-centred if it was), by more
    than the standard error of the difference, is not worth using. Without gold scores, neither is a cross-encoder that
    hardly agrees with its teacher, or whose teacher was well pooled (docs/adapting.md).

    Args:
        member: the encoder.
        rows: all results of the run.
        by: what it was selected by.
        tasks: the test sets, or the development set if there are none.
        well_pooled: whether an initial bi-encoder's embeddings agree with its tokens, by its number.
        supervised: whether it learnt human scores, with which no encoder agrees as with a teacher.
        standard_error: of its difference from the initial bi-encoder of a number, on some tasks.
    """
    keys = {row.key for row in rows}
    bi = member.number if (0, "bi", member.number) in keys else 0
    centred = (0, "bi-centred", bi) in keys
    start: Key = (0, "bi-centred" if centred else "bi", bi)
    initial = {row.task: row.value for row in rows if row.key == start and row.task in tasks}
    both = {row.task: (row.value, initial[row.task]) for row in rows if row.key == member.key and row.task in initial}
    if defined := {task: values for task, values in both.items() if not any(map(math.isnan, values))}:
        score, before = (100 * sum(values) / len(values) for values in zip(*defined.values(), strict=True))
        where = next(iter(defined)) if len(defined) == 1 else f"{len(defined)} sets on average"
        if score >= before or before - score <= 100 * standard_error(bi, defined):
            return None
        which = "mean-centred initial" if centred else "initial"
        return f"{score:.2f} on {where}, below the {which} bi-encoder's {before:.2f}"
    facts = member.artifact.facts
    told = by is Select.agreement and not supervised and facts.get("held_out", 0) >= MIN_HELD_OUT
    agreement = facts.get("selection") if told else None
    if member.kind == "cross" and agreement is not None and agreement < MIN_AGREEMENT:
        return f"Spearman with its teacher's labels is {agreement:.2f} on held-out pairs, below {MIN_AGREEMENT:g}"
    if member.kind == "cross" and well_pooled.get(member.number if member.number in well_pooled else 0):
        return "a cross-encoder that learns from a well pooled bi-encoder mostly ends below it (docs/adapting.md)"
    return None
