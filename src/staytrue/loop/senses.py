"""Senses: what the loop notices of an app beside its mean loss. Inputs, answers, rhythm, labels nobody can believe, segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, Self

import numpy as np

from staytrue.kernel.budget import arl
from staytrue.kernel.confidence import Calibration, fold, scores
from staytrue.kernel.policy import Settings
from staytrue.kernel.remedy import AlarmKind, remedy
from staytrue.kernel.segments import SegmentWatch
from staytrue.loop.answers import AnswerWatch
from staytrue.loop.inputs import InputWatch
from staytrue.loop.inspect import Inspector
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.rhythm import Break, Rhythm
from staytrue.loop.segments import watch_of, watched
from staytrue.loop.train import Trained

__all__ = ["Noticed", "Senses", "ticks_between_alarms"]

_KINDS: Final = ("harm", "shift", "silence")
"""What shares the chance of a false alarm. Each has two detectors: all rows and segments; inputs and answers; rows and labels."""
_STATES: Final = {"held": "opened", "let_go": "resolved", "suspect": "suspected"}


def ticks_between_alarms(kind: Literal["harm", "shift", "silence"], past: Past, settings: Settings) -> float:
    """Mean number of ticks between two false alarms of a detector of this kind, at least."""
    a_year = timedelta(days=365) / past.spec.every
    return arl(kind, ticks_per_year=a_year, alpha=settings.false_alarms, kinds=_KINDS, detectors=2)


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """Something to write down: an alarm, or a note of which nobody needs to hear."""

    alarm: AlarmKind
    what: str
    state: str
    sentence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    tells: bool = True

    @property
    def kind(self) -> str:
        """Of the event."""
        return "alarm" if self.tells else "noted"


@dataclass
class Senses:
    """What is noticed since a champion began to answer; rhythm and inspection go on from one champion to the next.

    Args:
        inputs, answers, segments: None before there is a champion, or before there is enough to compare with.
        fresh_from: from this tick on the champion's losses say what fresh means in each segment.
    """

    inputs: InputWatch | None = None
    answers: AnswerWatch | None = None
    rhythm: Rhythm | None = None
    segments: SegmentWatch | None = None
    calibration: Calibration | None = None
    inspector: Inspector = field(default_factory=Inspector)
    fresh_from: int = 0

    def renew(
        self,
        past: Past,
        settings: Settings,
        *,
        trained: tuple[int, int],
        begun: int,
        known: int,
        fresh_from: int,
        warm: int,
    ) -> None:
        """There is a new champion: compare with the rows of its training, and with what it answers at first.

        Args:
            trained: it was trained on ticks `start <= i < stop`.    begun: the first tick that it answers.
            known: labels are known for ticks before this one.       warm: rows that say how it answers when fresh.
        """
        shift = ticks_between_alarms("shift", past, settings)
        self.inputs = InputWatch(start=trained[0], stop=trained[1], begun=begun, arl=shift)
        self.answers = AnswerWatch(arl=shift, warm=warm)
        self.settle(fresh_from)
        if self.rhythm is None:
            self.rhythm = Rhythm.of(past, known, ticks_between_alarms("silence", past, settings))

    def settle(self, fresh_from: int) -> None:
        """What the champion loses from that tick on is what fresh means now, in segments too."""
        self.segments, self.calibration, self.fresh_from = None, None, fresh_from

    # ------------------------------------------------------------ noticing

    def came(self, past: Past, tick: int, *, harmed: bool, labelled: bool) -> list[Noticed]:
        """The rows of a tick are there."""
        found = []
        turn = self.inputs.seen(past, tick) if self.inputs else None
        if turn is not None:
            moved = turn.sentence if turn.opened else ""
            found.append(_shift("inputs", moved, turn.numbers, harmed=harmed, labelled=labelled))
        return found + _silence(self.rhythm.came(past, tick) if self.rhythm else None)

    def labelled(self, past: Past, tick: int) -> list[Noticed]:
        """The labels of a tick should be there."""
        return _silence(self.rhythm.labelled(past, tick) if self.rhythm else None)

    def learned(
        self, past: Past, champion: Trained, tick: int, losses: np.ndarray, *, settings: Settings, warm: bool,
        harmed: bool, labelled: bool,
    ) -> Steps[list[Noticed]]:  # fmt: skip
        """The labels of a tick are there, and what the champion answered to its rows.

        Args:
            losses: (n,) of the champion, one a labelled row.    warm: whether it is known what it loses when fresh.
        """
        found = self._inspected(past, champion, tick)
        said = self.answers.seen(tick, past.answers(champion, tick)) if self.answers else None
        if said is not None:
            found.append(_shift("answers", said, {}, harmed=harmed, labelled=labelled))
        if warm:
            if self.calibration is None:
                yield from past.answered([champion], self.fresh_from, tick + 1)
            self._calibrate(past, champion, tick, losses)
        if warm and past.ctx.app.segments:
            found += yield from self._in_segments(past, champion, tick, losses, settings)
        return found

    def _inspected(self, past: Past, champion: Trained, tick: int) -> list[Noticed]:
        held_before = bool(self.inspector.run)
        found = []
        for told in self.inspector.inspect(past, champion, tick):
            group = told.held.group if told.held else None
            sentence = f"Fault {'alarm' if told.kind == 'held' else 'noted'}: {told.sentence}"
            found.append(
                Noticed(
                    alarm="fault", what=group.name if group else "labels", state=_STATES[told.kind], sentence=sentence,
                    numbers=told.numbers(), tells=told.kind != "suspect",
                )
            )  # fmt: skip
            held_before &= told.kind != "let_go"
        if held_before and not self.inspector.run:
            sentence = "Fault alarm over: later labels look right again; the rows that were held stay out of training."
            found.append(Noticed(alarm="fault", what="labels", state="resolved", sentence=sentence))
        return found

    def _calibrate(self, past: Past, champion: Trained, tick: int, losses: np.ndarray) -> None:
        """What the champion's own answers say of its loss; first on all rows that say what fresh means."""
        first, seen = tick, losses
        if self.calibration is None:
            first, seen = self.fresh_from, past.losses_between(champion, self.fresh_from, tick + 1)
        answers = [answer for t in range(first, tick + 1) for answer in past.paired(champion, t)[0]]
        said = scores(past.ctx.metric.name, answers) if answers else None
        if said is None:
            return
        if self.calibration is None or self.calibration.curve.kind != said.kind:
            self.calibration = Calibration.fresh(said, scale=max(float(seen.mean()), 1e-9))
        self.calibration = fold(self.calibration, tick, said, seen)

    def _in_segments(
        self, past: Past, champion: Trained, tick: int, losses: np.ndarray, settings: Settings
    ) -> Steps[list[Noticed]]:
        if self.segments is None:
            yield from past.answered([champion], self.fresh_from, tick + 1)
            alpha = settings.false_alarms / len(_KINDS) / 2
            self.segments = watch_of(past, champion, start=self.fresh_from, stop=tick + 1, alpha=alpha)
            return []
        before, self.segments = self.segments.fired, watched(self.segments, past, tick, losses)
        return [
            Noticed(
                alarm="harm", what=one.segment, state="opened", sentence=f"Harm alarm in a segment: {one.sentence}.",
                numbers={"fresh_loss": one.baseline, "loss": one.level, "evidence": one.evidence},
            )
            for one in self.segments.harmed() if one.segment not in before
        ]  # fmt: skip

    # ------------------------------------------------------------ what is known

    @property
    def alarms(self) -> set[AlarmKind]:
        """Kinds of the alarms that stand open."""
        standing: dict[AlarmKind, bool] = {
            "harm": bool(self.segments and self.segments.fired),
            "shift": any(watch is not None and watch.is_open for watch in (self.inputs, self.answers)),
            "silence": bool(self.rhythm and self.rhythm.open_),
            "fault": bool(self.inspector.run or self.inspector.groups),
        }
        return {kind for kind, is_open in standing.items() if is_open}

    # ------------------------------------------------------------ keeping

    def document(self, time: Callable[[int], str]) -> dict[str, Any]:
        """All of it as JSON; `time` says when a tick begins, for their numbers change."""
        inputs = self.inputs
        return {
            "inputs": inputs
            and {"is_open": inputs.is_open, "span": [time(t) for t in (inputs.start, inputs.stop, inputs.begun)]},
            "answers": self.answers and self.answers.document(),
            "rhythm": self.rhythm and self.rhythm.document(),
            "segments": self.segments and self.segments.document(),
            "calibration": self.calibration and self.calibration.document(),
            "inspector": self.inspector.document(),
            "fresh_from": time(self.fresh_from),
        }

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], tick: Callable[[str], int], past: Past, settings: Settings
    ) -> Self:
        """The senses that `document` came from; `tick` is the first one that begins at a time or later."""
        inputs, answers = document["inputs"], document["answers"]
        made = cls(
            answers=AnswerWatch.from_document(answers) if answers else None,
            rhythm=Rhythm.from_document(document["rhythm"]) if document["rhythm"] else None,
            segments=SegmentWatch.from_document(document["segments"]) if document["segments"] else None,
            calibration=Calibration.from_document(document["calibration"]) if document.get("calibration") else None,
            inspector=Inspector.from_document(document["inspector"]),
            fresh_from=tick(document["fresh_from"]),
        )
        if inputs:
            start, stop, begun = map(tick, inputs["span"])
            made.inputs = InputWatch(
                start=start, stop=stop, begun=begun, is_open=inputs["is_open"],
                arl=ticks_between_alarms("shift", past, settings),
            )  # fmt: skip
        return made


def _shift(what: str, moved: str, numbers: Mapping[str, Any], *, harmed: bool, labelled: bool) -> Noticed:
    """Inputs or answers moved (or, without a word, look as before again): an alarm only if nobody knows what it does."""
    if not moved:
        sentence = f"Shift over: the {what} look as they did before."
        return Noticed(alarm="shift", what=what, state="resolved", sentence=sentence, tells=False)
    found = remedy("harm" if harmed else "shift", labelled=labelled)
    sentence = f"Shift of the {what}: {moved}. {found.why[0].upper()}{found.why[1:]}."
    return Noticed(alarm="shift", what=what, state="opened", sentence=sentence, numbers=numbers, tells=found.tells)


def _silence(broken: Break | None) -> list[Noticed]:
    if broken is None:
        return []
    follows = f" {remedy('silence').why.capitalize()}." if broken.opened else ""
    sentence = f"Silence alarm{'' if broken.opened else ' over'}: {broken.sentence}.{follows}"
    state = "opened" if broken.opened else "resolved"
    return [Noticed(alarm="silence", what=broken.what, state=state, sentence=sentence, numbers=broken.numbers)]
