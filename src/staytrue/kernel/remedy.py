"""Remedy: what to do about an alarm. Each kind wants something else, so it is one table, and replay and live loop read the same.

fault     rows break the contract, or labels can't be believed: they are put aside, and nothing is trained on them
harm      the champion loses more than when it was fresh: champions of before are looked at, then a retraining
shift     inputs or answers moved: with labels and no harm a note, else labels are wanted
silence   rows or labels stopped or slowed: nothing is called right any more
system    errors, latency, disk: a release that fails is rolled back, and what died is started again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from staytrue.errors import InvalidInput

__all__ = ["ALARMS", "Act", "AlarmKind", "Remedy", "remedy"]

AlarmKind = Literal["fault", "harm", "shift", "silence", "system"]
Act = Literal["quarantine", "restore", "retrain", "label", "note", "wait", "roll_back"]

ALARMS: Final[tuple[AlarmKind, ...]] = get_args(AlarmKind)
"""In the order in which they are told: what is wrong with data comes before what may follow from it."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What is done about one open alarm.

    Fields:
        acts: in this order, each only if the one before it did not help.
        why: for a person, as the second half of a sentence about the alarm.
        tells: whether people hear of it.
    """

    acts: tuple[Act, ...]
    why: str
    tells: bool = True


_TABLE: Final[dict[AlarmKind, Remedy]] = {
    "fault": Remedy(
        acts=("quarantine",),
        why="nothing is trained on these rows; `staytrue data` shows, repairs or releases them",
    ),
    "harm": Remedy(
        acts=("restore", "retrain"),
        why="champions of before are looked at first, then it is retrained when that pays",
    ),
    "shift": Remedy(
        acts=("label",),
        why="no label says whether that does harm; `staytrue label --next 100` picks rows to look at",
    ),
    "silence": Remedy(acts=("wait",), why="nothing is called right without evidence"),
    "system": Remedy(
        acts=("roll_back",),
        why="a release that fails is rolled back, and what died is started again",
    ),
}
_HARMLESS: Final = Remedy(acts=("note",), why="the loss has not risen, so nothing is done", tells=False)


def remedy(alarm: AlarmKind, *, labelled: bool = True) -> Remedy:
    """What is done about an open alarm.

    Args:
        labelled: whether labels of late say what the champion loses: then a shift without harm is a note.

    Raises:
        InvalidInput: ST806, no such kind of alarm.

    Example:
        >>> remedy("shift").acts, remedy("shift", labelled=False).acts
        (('note',), ('label',))
    """
    if alarm not in _TABLE:
        raise InvalidInput("ST806", f"No alarm is called {alarm!r}; there are {', '.join(ALARMS)}.", alarm=alarm)
    return _HARMLESS if alarm == "shift" and labelled else _TABLE[alarm]
