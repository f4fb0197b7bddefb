"""Blame report: what a blame found, as one document and in words. CLI, log, status and page say what stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from staytrue.kernel.blame import Repair
from staytrue.kernel.gain import Change

__all__ = ["BlameReport", "Culprit", "Loss", "Outcome", "named"]

Outcome: TypeAlias = Literal["changes", "nobody", "unknown"]
"""`changes`: these are to blame. `nobody`: nothing that changed is. `unknown`: the budget ended before that was known."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What was lost a row, on how many: by the bad and the good release on today's rows, and by the good one on its own."""

    metric: str
    bad: float
    good: float | None
    good_then: float | None
    rows: int
    rows_then: int
    since: str
    until: str


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """What it was inside a guilty axis: a commit, a part, a setting, a column; `sentence` says it.

    `trainings` is how many it took to find out.
    """

    axis: str
    kind: str
    name: str
    sentence: str
    trainings: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BlameReport:
    """What re-running mixtures of two releases showed.

    Attributes:
        details: axis -> what differs on it, in words, such as `learning_rate 0.1 -> 0.9`.
        untried: axis -> why it could not be tried.
        shares: axis -> its Shapley share of what bad loses more than good on the same rows; `estimated` when not all
            mixtures were run.
        remarks: what a reader has to know of how it was done, a sentence each.
        together: columns that moved in the data and in the traffic alike: one upstream event.
        trainings: how many were made for it.
    """

    app: str
    good: str
    bad: str
    loss: Loss
    repair: Repair
    details: Mapping[str, str]
    untried: Mapping[str, str]
    shares: Mapping[str, float]
    estimated: bool
    together: Sequence[str]
    culprits: Sequence[Culprit]
    remarks: Sequence[str]
    trainings: int
    mixtures: int

    @property
    def outcome(self) -> Outcome:
        """Whether something is to blame."""
        if self.repair.changes:
            return "changes"
        return "unknown" if self.repair.cut_short else "nobody"

    def sentence(self) -> str:
        """The verdict."""
        good, bad, loss = self.good[:8], self.bad[:8], self.loss
        gain = self.repair.gain
        if gain is not None:
            return (
                f"It is {_all_of([self._told(change) for change in _joined(self.repair.changes)])}: {self._how()} "
                f"{bad} would lose {_short(loss.bad - gain.mean)} a row instead of {_short(loss.bad)} "
                f"({_short(gain.mean)} less, {_short(gain.low)} to {_short(gain.high)})."
            )
        if self.repair.cut_short:
            return (
                f"Not known yet: the budget of {_count(self.trainings, 'training')} ended before all that changed from {good} "
                f"to {bad} was tried. Give more with --budget; what was trained is not trained again."
            )
        beside = (
            f"{good} itself would lose {_short(loss.good)} a row on the same rows, against {_short(loss.bad)}"
            if loss.good is not None
            else f"{bad} loses {_short(loss.bad)} a row"
        )
        return (
            f"Nothing that changed from {good} to {bad} is to blame: {beside}. "
            f"A gain of less than {_short(self.repair.resolution)} a row could not have been seen."
        )

    def more(self) -> list[str]:
        """What there is to say beside the verdict, a sentence each."""
        said = [culprit.sentence for culprit in self.culprits]
        said += [
            f"{named(other).capitalize()} taken back alone would do as well: they do harm only together."
            if other.how == "back"
            else "Trained again on the newest rows alone it would do as well."
            for other in self.repair.alternatives
        ]
        said += [
            f"{_the(one.axes[0]).capitalize()} and {_the(one.axes[1])} each do the harm alone: only both taken back repair it."
            for one in self.repair.interactions
            if one.kind == "each" and not set(one.axes) <= _HALVES
        ]
        # What moved everywhere explains nothing where something else was found.
        if self.together and (not self.repair.changes or any(one.axis == "data" for one in self.repair.changes)):
            said.append(
                f"{', '.join(self.together)} moved in the new rows and in today's traffic alike: a season, or one event "
                "upstream, which no revert undoes."
            )
        then, now = self.loss.good_then, self.loss.good
        # Where the data are to blame, their labels may be what is wrong, and "then" was measured on them.
        data = any(change.axis == "data" for change in self.repair.changes)
        if then is not None and now is not None and not data and abs(now - then) > self.repair.smallest:
            word = "harder" if now > then else "easier"
            said.append(
                f"Today's rows are {word}: {self.good[:8]} lost {_short(then)} a row when it was new, and would lose "
                f"{_short(now)} today."
            )
        said += self.remarks
        said += [f"{axis.capitalize()} was not tried: {why}." for axis, why in self.untried.items()]
        return said

    def next(self) -> str:
        """The next command."""
        good, bad = self.good[:8], self.bad[:8]
        if self.outcome == "changes":
            return f"staytrue blame {good} {bad} --apply"
        return (
            f"staytrue blame {good} {bad} --budget {4 * max(3, self.trainings)}"
            if self.repair.cut_short
            else "staytrue status"
        )

    def document(self) -> dict[str, Any]:
        """As JSON, described in docs/documents.md."""
        repair = self.repair
        return {
            "kind": "blame",
            "app": self.app,
            "good": self.good,
            "bad": self.bad,
            "outcome": self.outcome,
            "sentence": self.sentence(),
            "more": self.more(),
            "next": self.next(),
            "loss": asdict(self.loss),
            "changes": [
                {"axis": change.axis, "how": change.how, "what": self._told(change)} for change in repair.changes
            ],
            "gain": repair.gain.document() if repair.gain else None,
            "steps": [step.document() for step in repair.steps],
            "singles": [single.document() for single in repair.singles],
            "all_back": repair.all_back.document() if repair.all_back else None,
            "alternatives": [[change.axis, change.how] for change in repair.alternatives],
            "interactions": [asdict(one) for one in repair.interactions],
            "details": dict(self.details),
            "untried": dict(self.untried),
            "shares": dict(self.shares),
            "estimated": self.estimated,
            "together": list(self.together),
            "remarks": list(self.remarks),
            "culprits": [asdict(culprit) for culprit in self.culprits],
            "resolution": _finite(repair.resolution),
            "smallest": repair.smallest,
            "trainings": self.trainings,
            "mixtures": self.mixtures,
            "cut_short": repair.cut_short,
        }

    def _told(self, change: Change) -> str:
        detail = self.details.get(change.axis)
        return f"{named(change)} ({detail})" if detail else named(change)

    def _how(self) -> str:
        back = [change for change in self.repair.changes if change.how == "back"]
        fresh = any(change.how == "fresh" for change in self.repair.changes)
        ways = []
        if back:
            ways.append(f"with {'that' if len(_joined(back)) == 1 else 'those'} of {self.good[:8]}")
        if fresh:
            ways.append("trained again on the newest rows")
        return " and ".join(ways)


def named(change: Change) -> str:
    """A change as people say it.

    Example:
        >>> named(Change(axis="training code")), named(Change(axis="data", how="fresh"))
        ('the code that trains', 'stale data')
    """
    return "stale data" if change.how == "fresh" else _the(change.axis)


_NAMES = {
    "code": "the code",
    "training code": "the code that trains",
    "serving code": "the code that answers",
    "settings": "the settings",
    "seed": "the seed",
    "environment": "the environment",
    "data": "the data",
    "model": "the model alone",
}


_HALVES = {"training code", "serving code"}


def _the(axis: str) -> str:
    return _NAMES.get(axis, axis)


def _joined(changes: Sequence[Change]) -> list[Change]:
    """Both halves of the code are the code."""
    if {change.axis for change in changes} >= _HALVES:
        return [Change(axis="code"), *(change for change in changes if change.axis not in _HALVES)]
    return list(changes)


def _all_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _short(number: float | None) -> str:
    return "?" if number is None else f"{number:.3g}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
