"""Checked: what a change is held against, and what a check of it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from staytrue.kernel.release import Digest, Release
from staytrue.loop.checking.change import Change
from staytrue.loop.checking.step import Step
from staytrue.loop.comparison import Comparison
from staytrue.loop.context import Context
from staytrue.loop.proposal import Proposal
from staytrue.loop.train import Trained
from staytrue.loop.trial import Backtest
from staytrue.store.ledger import Ref
from staytrue.store.store import KeptRelease

__all__ = ["Base", "Candidate", "Checked"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a change is held against: an app's code, and the release that it is of (None: it was never released)."""

    ctx: Context
    release: KeptRelease | None
    name: str

    @property
    def id(self) -> str:
        """Tells bases apart."""
        return self.release.id if self.release else self.ctx.code


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A release that passed, and all that a trial of it needs. Nothing of it is recorded yet.

    Attributes:
        refs: what keeps the release once an event carries them.
        trained: who answers for it; None in a plain service.
        comparison: who answered in the backtest; None where there was nothing to compare.
        tested: what the backtest showed, with its evidence (`tested.pairs`); None likewise.
        same_answers: it is the same model, and gives the same answers to the golden rows, to every held-out row and to every
            logged request that both were asked: nobody can tell it from the old one.
    """

    ctx: Context
    release: Release
    id: Digest
    refs: tuple[Ref, ...]
    change: Change
    trained: Trained | None
    comparison: Comparison | None = None
    tested: Backtest | None = None
    same_answers: bool = False


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a check. `candidate` is there when it passed and there is something to release."""

    key: Digest
    app: str
    proposal: Proposal
    against: str | None
    base: str | None
    steps: tuple[Step, ...]
    candidate: Candidate | None = None
    refs: tuple[Ref, ...] = ()
    """What keeps the output of the tests, for an event that tells of the check."""
    remembered: bool = False
    """Nothing was run: it was checked before."""

    @property
    def passed(self) -> bool:
        """Whether no step failed."""
        return all(step.status != "failed" for step in self.steps)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        failed = next((step for step in self.steps if step.status == "failed"), None)
        who = f"{self.proposal.name[:1].upper()}{self.proposal.name[1:]}"
        if failed:
            return f"{who} failed at the step {failed.name}: {failed.sentence}"
        identity = next((step.sentence for step in self.steps if step.name == "identity"), "")
        return f"{who} passed. {identity}".strip()

    def document(self) -> dict[str, Any]:
        """As `staytrue check --json` prints it, described in docs/documents.md."""
        return {
            "app": self.app,
            "what": self.proposal.name,
            "commit": self.proposal.commit,
            "code": self.proposal.code,
            "against": self.against,
            "verdict": "passed" if self.passed else "failed",
            "sentence": self.sentence,
            "release": self.candidate.id if self.candidate else None,
            "change": self.candidate.change if self.candidate else None,
            "remembered": self.remembered,
            "steps": [asdict(step) for step in self.steps],
        }
