"""Service life: a plain service under the loop. No rows, no training: new code proves itself on a share of the traffic.

It has the same verbs as `Life`, so that the controller need not care which of the two it runs; what a trial rests on are
requests that were answered and did not fail (`loop/service.py`, `kernel/rollout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from staytrue.kernel.duration import duration
from staytrue.kernel.policy import Settings
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Step, moved, service_steps
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.context import Context
from staytrue.loop.life import Waiting
from staytrue.loop.service import service_advice
from staytrue.store.ledger import Ref

__all__ = ["ServiceLife", "ServiceTrial"]

_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class ServiceTrial:
    """A challenger of a plain service on its way."""

    number: int
    release: Digest
    steps: tuple[Step, ...]
    began: datetime
    """By the clock."""
    since: datetime
    """When this step began, as the traffic has it."""
    at: int = 0
    rows: int = 0

    @property
    def step(self) -> Step:
        """The step it is in."""
        return self.steps[self.at]

    @property
    def last(self) -> bool:
        """Whether the next move up is to champion."""
        return self.at == len(self.steps) - 1


@dataclass
class ServiceLife:
    """One plain service: who answers, who is on trial, and the release to go back to."""

    ctx: Context
    settings: Settings
    chronicle: Chronicle
    wall: Callable[[], datetime]

    release: Digest = field(init=False)
    trial: ServiceTrial | None = None
    waiting: Waiting | None = None
    old: Digest | None = None
    """The champion before, as long as there is a way back to it."""
    number: int = 0
    looked: datetime | None = None

    @property
    def crowned(self) -> bool:
        """Whether it has a champion yet."""
        return hasattr(self, "release")

    @property
    def code(self) -> Digest:
        """The champion's code."""
        return self.ctx.store.release_document(self.release).code

    def remember(self) -> dict[str, Any]:
        """All that it needs to go on, as JSON."""
        trial, waiting = self.trial, self.waiting
        return {
            "release": self.release,
            "trial": trial
            and {
                "number": trial.number,
                "release": trial.release,
                "began": trial.began.isoformat(),
                "since": trial.since.isoformat(),
                "at": trial.at,
                "rows": trial.rows,
            },
            "waiting": waiting
            and {
                "until": waiting.until.isoformat(),
                "sentence": waiting.sentence,
                "evidence": dict(waiting.evidence),
            },
            "old": self.old,
            "number": self.number,
            "look": self.look(),
        }

    def recall(self, document: Mapping[str, Any]) -> None:
        """Go on from what was remembered."""
        self.release = Digest(document["release"])
        trial, waiting = document["trial"], document["waiting"]
        if trial:
            began, since = (datetime.fromisoformat(trial[name]) for name in ("began", "since"))
            steps = service_steps(self.settings.trial)
            at = min(int(trial["at"]), len(steps) - 1)
            self.trial = ServiceTrial(
                number=trial["number"],
                release=Digest(trial["release"]),
                steps=steps,
                began=began,
                since=since,
                at=at,
                rows=trial["rows"],
            )
        if waiting:
            self.waiting = Waiting(**{**waiting, "until": datetime.fromisoformat(waiting["until"])})
        self.old = Digest(document["old"]) if document["old"] else None
        self.number = int(document["number"])

    def look(self) -> dict[str, Any]:
        """What `status` asks."""
        trial = self.trial
        return {
            "champion": self.release,
            "service": True,
            "rows": 0,
            "alarms": [],
            "trial": {"release": trial.release, "stage": trial.step.stage, "rows": trial.rows} if trial else None,
            "next": "the next change of the code",
        }

    def adopt(self, release: Digest, now: datetime) -> None:
        """Go on with a champion that somebody else made, by hand."""
        if release != self.release:
            self.reject(now, "stopped", "another champion was made meanwhile", {})
            self.release = release

    # ------------------------------------------------------------ a trial

    def rename(
        self, release: Digest, refs: tuple[Ref, ...], now: datetime, sentence: str, *,
        kind: str = "deployed", said: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Make a release champion that nobody can tell from the one there is."""
        old, self.release, self.old = self.release, release, self.release
        roles = {"champion": (release, 1.0), "previous": (old, 0.0)}
        told = {"from": old, **(said or {})}
        self._tell(kind, f"Release {release[:8]} is champion: {sentence}", now, release, told, refs, roles)

    def enter(
        self, release: Digest, refs: tuple[Ref, ...], now: datetime, sentence: str, told: Mapping[str, Any], *,
        instead: str = "newer code comes",
    ) -> None:  # fmt: skip
        """Bring a release into its trial; whoever is on trial makes room for it."""
        self.reject(now, "superseded", instead, {})
        self.number += 1
        self._tell("backtest", sentence, now, release, told)
        steps = service_steps(self.settings.trial)
        self.trial = ServiceTrial(number=self.number, release=release, steps=steps, began=now, since=self.wall())
        self._tell_step(now, refs)

    def _tell_step(self, now: datetime, refs: tuple[Ref, ...] = ()) -> None:
        trial = self.trial
        if trial is None:
            return
        step = trial.step
        roles = {"challenger": (trial.release, step.share)}
        sentence = f"Challenger {trial.release[:8]} in {step.doing}."
        self._tell(step.stage, sentence, now, trial.release, {"share": step.share, "rows": step.rows}, refs, roles)

    def advance(self, now: datetime) -> None:
        """Ask the traffic what it says of the challenger, and go one step on, or end it."""
        trial = self.trial
        if trial is None or self.waiting is not None:
            return
        over = (now - trial.began) / _DAY >= self.settings.trial_days
        advice = service_advice(
            self.ctx.store,
            self.ctx.app.name,
            trial.step,
            challenger=trial.release,
            champion=self.release,
            since=trial.since,
            over=over,
        )
        self.trial = replace(trial, rows=int(advice.evidence.get("rows", 0)))
        if advice.move == "reject":
            self.reject(
                now, "guard" if advice.evidence.get("tripped") else "undecided", advice.sentence, advice.evidence
            )
        elif advice.move == "pass" and trial.last:
            moved(trial.step.stage, "pass", "champion")
            self._proven(advice.sentence, advice.evidence, now)
        elif advice.move == "pass":
            moved(trial.step.stage, "pass", trial.steps[trial.at + 1].stage)
            self.trial = replace(trial, at=trial.at + 1, since=self.wall(), rows=0)
            self._tell_step(now)

    def _proven(self, sentence: str, numbers: Mapping[str, Any], now: datetime) -> None:
        if not self.settings.approve or self.trial is None:
            self.promote(now, sentence, numbers)
            return
        until = now + duration(self.settings.approve_within)
        self.waiting = Waiting(until=until, sentence=sentence, evidence=numbers)
        said = f"Challenger {self.trial.release[:8]} waits for a person until {until:%Y-%m-%d %H:%M} UTC: {sentence}."
        self._tell("waiting", said, now, self.trial.release, {"until": until.isoformat(), **numbers})

    def expire(self, now: datetime) -> None:
        """Act on a challenger that nobody spoke about in time."""
        waiting = self.waiting
        if waiting is None or now < waiting.until:
            return
        if self.settings.approve_default == "promote":
            self.promote(now, f"{waiting.sentence}; nobody objected in time", waiting.evidence)
        else:
            self.reject(now, "expired", "nobody approved it in time", waiting.evidence)

    # ------------------------------------------------------------ outcomes

    def promote(self, now: datetime, sentence: str, numbers: Mapping[str, Any]) -> None:
        """Make the challenger champion; the old one stays warm."""
        trial = self.trial
        if trial is None:
            return
        old, self.release, self.old = self.release, trial.release, self.release
        self.trial = self.waiting = None
        roles = {"champion": (trial.release, 1.0), "challenger": (None, 0.0), "previous": (old, 0.0)}
        said = f"Release {trial.release[:8]} is champion: {sentence}."
        self._tell("promoted", said, now, trial.release, numbers, (), roles)

    def reject(self, now: datetime, verdict: str, why: str, numbers: Mapping[str, Any]) -> None:
        """End the trial under way."""
        trial, self.trial, self.waiting = self.trial, None, None
        if trial is None:
            return
        said = f"Challenger {trial.release[:8]} rejected in {trial.step.stage} ({verdict}): {why}. The champion stays."
        told = {"stage": trial.step.stage, "verdict": verdict, **numbers}
        self._tell("rejected", said, now, trial.release, told, (), {"challenger": (None, 0.0)})

    def roll_back(self, now: datetime, sentence: str, numbers: Mapping[str, Any]) -> None:
        """Give the old champion its role back."""
        bad, old = self.release, self.old
        if old is None:
            return
        moved("champion", "roll_back", "rolled_back")
        self.reject(now, "stopped", "its champion was rolled back", {})
        self.release, self.old = old, None
        roles = {"champion": (old, 1.0), "previous": (None, 0.0)}
        said = f"Release {bad[:8]} rolled back to {old[:8]}: {sentence}."
        self._tell("rolled_back", said, now, old, {"from": bad, **numbers}, (), roles)

    def _tell(  # noqa: PLR0917 - an event's parts
        self,
        kind: str,
        sentence: str,
        now: datetime,
        release: Digest,
        numbers: Mapping[str, Any],
        refs: tuple[Ref, ...] = (),
        roles: Any = None,
    ) -> None:
        body = {"policy": "service", "release": release, "evidence": dict(numbers)}
        self.chronicle.tell(kind, sentence, at=now, body=body, refs=refs, roles=roles)
