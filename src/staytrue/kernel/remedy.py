"""Remedy: what to do about an alarm. Each kind wants something else, so it is one table, and replay and live loop read the same.

fault     rows break the contract, or labels can't be believed: they are put aside, and nothing is trained on them
harm      the champion loses more than when it was fresh: champions of before are looked at, then a retraining
shift     inputs or answers moved: with labels and no harm a note, else labels are wanted
silence   rows or labels stopped or slowed: nothing is called right any more
system    errors, latency, disk: a release that fails is rolled back, and what died is started again
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from staytrue.errors import InvalidInput

__all__ = ["ALARMS", "Act", "AlarmKind", "Remedy", "remedies", "remedy"]

AlarmKind = Literal["fault", "harm", "shift", "silence", "system"]
Act = Literal["quarantine", "restore", "retrain", "label", "note", "wait", "roll_back"]

ALARMS: Final[tuple[AlarmKind, ...]] = get_args(AlarmKind)
"""In the order of their remedies: what is wrong with data or machine comes before what may follow from it."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What is done about one open alarm.

    Fields:
        acts: in this order, each only if the one before it did not help.
        tells: whether people hear of it.
        trusts: whether the app may still be called right while it is open, if its losses say so.
        why: for a person, as the second half of a sentence about the alarm.
    """

    alarm: AlarmKind
    acts: tuple[Act, ...]
    tells: bool
    trusts: bool
    why: str


_Case: TypeAlias = tuple[AlarmKind, bool | None]
"""An alarm, and whether labels say what the champion loses (None: it makes no difference)."""

_TABLE: Final[dict[_Case, Remedy]] = {
    (one.alarm, labelled): one
    for labelled, one in (
        (
            None,
            Remedy(
                alarm="fault",
                acts=("quarantine",),
                tells=True,
                trusts=True,
                why="nothing is trained on these rows; `staytrue data` shows, repairs or releases them",
            ),
        ),
        (
            None,
            Remedy(
                alarm="harm",
                acts=("restore", "retrain"),
                tells=True,
                trusts=False,
                why="champions of before are looked at first, then it is retrained when that pays",
            ),
        ),
        (
            True,
            Remedy(
                alarm="shift",
                acts=("note",),
                tells=False,
                trusts=True,
                why="the loss has not risen, so nothing is done",
            ),
        ),
        (
            False,
            Remedy(
                alarm="shift",
                acts=("label",),
                tells=True,
                trusts=False,
                why="no label says whether that does harm; `staytrue label --next 100` picks rows to look at",
            ),
        ),
        (
            None,
            Remedy(
                alarm="silence",
                acts=("wait",),
                tells=True,
                trusts=False,
                why="nothing is called right without evidence",
            ),
        ),
        (
            None,
            Remedy(
                alarm="system",
                acts=("roll_back",),
                tells=True,
                trusts=False,
                why="a release that fails is rolled back, and what died is started again",
            ),
        ),
    )
}


def remedy(alarm: AlarmKind, *, labelled: bool = True) -> Remedy:
    """What is done about an open alarm.

    Args:
        labelled: whether labels of late say what the champion loses.

    Raises:
        InvalidInput: ST806, no such kind of alarm.

    Example:
        >>> remedy("shift").acts, remedy("shift", labelled=False).acts
        (('note',), ('label',))
    """
    found = _TABLE.get((alarm, None)) or _TABLE.get((alarm, labelled))
    if found is None:
        raise InvalidInput("ST806", f"No alarm is called {alarm!r}; there are {', '.join(ALARMS)}.", alarm=alarm)
    return found


def remedies(alarms: Collection[str], *, labelled: bool = True) -> tuple[Remedy, ...]:
    """What is done about all open alarms, in the order in which it is done.

    Example:
        >>> [one.alarm for one in remedies({"harm", "fault"})]
        ['fault', 'harm']
    """
    return tuple(remedy(kind, labelled=labelled) for kind in ALARMS if kind in alarms)
