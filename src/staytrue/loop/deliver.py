"""Deliver: hold a release against the champion, and change who answers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from staytrue.errors import Conflict, StaytrueError
from staytrue.kernel.release import Digest, Release
from staytrue.loop.comparison import NEW_ROWS, Comparison, as_it_was, compared, trained_stop, without_newest
from staytrue.loop.context import Context, as_released
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.orders import Order
from staytrue.loop.past import Past
from staytrue.loop.release import answered_release, checked_out, kept, same_answers
from staytrue.loop.train import Trained, train
from staytrue.loop.trial import inputs
from staytrue.store.ledger import LIVE, Entry, Ref, RoleChange, RoleName
from staytrue.store.store import KeptRelease

__all__ = [
    "Comparison",
    "Delivered",
    "Delivery",
    "champion_epoch",
    "delivery",
    "note_failure",
    "train_by_hand",
    "trained_stop",
]


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What became of a release that was delivered by hand."""

    release: Digest
    promoted: bool
    verdict: str
    sentence: str
    evidence: Mapping[str, Any]
    order: Order | None = None
    """What the loop was asked to do, where it lives: what becomes of the release is its to say."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "release": self.release,
            "promoted": self.promoted,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
            "order": self.order.document() if self.order else None,
        }


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A release on its way to the champion's place, by hand: `kind` names the event, such as `trained` or `reverted`."""

    ctx: Context
    release: Release
    refs: tuple[Ref, ...]
    kind: str
    champion: KeptRelease | None
    epoch: int
    """Of the champion that was looked at: the ledger refuses a promotion over any other."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else the event says: who, and what for."""

    @property
    def id(self) -> Digest:
        """The release's id."""
        return kept(self.ctx, self.release)

    def unopposed(self, why: str) -> Delivered:
        """Make it champion without a trial, and write down why."""
        verdict = "unopposed" if self.champion is None else "forced"
        return self._promoted(verdict, f"Release {self.id[:8]} is champion: {why}.", {})

    def tried(self, past: Past, how: Comparison) -> Steps[Delivered]:
        """Hold it against the champion on labelled rows, and let it in on evidence.

        The same release is tried against the same champion on the same rows once: asked again, it is told what came of it.
        """
        if self.champion is None:
            return self.unopposed("the first release: nothing to compare it with yet")
        key = f"tried:{self.id}:{self.champion.id}:{past.table.id}"
        before = self.ctx.store.ledger.events(self.ctx.app.name, LIVE, kinds=["tried"])
        known = next((event for event in before if event.key == key), None)
        if known is not None:
            return self._out(known.body["verdict"], known.sentence, known.body["evidence"])
        if past.rows(how.held_out, past.until) < NEW_ROWS:
            rows = past.rows(how.held_out, past.until)
            why = f"{rows} labelled rows are newer than what both were trained on, {NEW_ROWS} are needed; --now skips the trial"
            return self.kept_out(key, "undecided", why, {"rows": rows})
        old, new = how.servers or (checked_out(self.ctx, self.champion.release), checked_out(self.ctx, self.release))
        trials = self.ctx.store.ledger.events(self.ctx.app.name, LIVE, kinds=["promoted", "rejected", "tried"])
        settings, number = self.ctx.app.settings, 1 + len(trials)
        tested = yield from compared(past, settings, (old, new), cut=how.held_out, stop=past.until, number=number)
        found = tested.judgement
        if found.verdict in ("better", "not_worse"):
            return self._promoted(
                found.verdict, f"Release {self.id[:8]} is champion: {found.sentence}.", found.evidence
            )
        return self.kept_out(key, found.verdict, found.sentence, found.evidence)

    def _promoted(self, verdict: str, sentence: str, evidence: Mapping[str, Any]) -> Delivered:
        roles = [RoleChange(role="champion", release=self.id, share=1.0, expect_epoch=self.epoch)]
        if self.champion is not None:
            previous = _epoch(self.ctx, "previous")
            roles.append(RoleChange(role="previous", release=self.champion.id, share=0.0, expect_epoch=previous))
        challenger = self.ctx.store.ledger.role(self.ctx.app.name, LIVE, "challenger")
        if challenger is not None and challenger.release == self.id:
            roles.append(RoleChange(role="challenger", release=None, share=0.0, expect_epoch=challenger.epoch))
        kind = "deployed" if self.champion is None else self.kind
        against = self.champion.id if self.champion else None
        # One event for this release against this champion at this epoch: the same command twice has one effect.
        self._write(f"{kind}:{self.id}:{against}:{self.epoch}", kind, sentence, verdict, evidence, roles)
        return Delivered(release=self.id, promoted=True, verdict=verdict, sentence=sentence, evidence=evidence)

    def kept_out(self, key: str, verdict: str, why: str, evidence: Mapping[str, Any]) -> Delivered:
        """Keep it beside the champion, and write down why it does not answer."""
        sentence = f"Release {self.id[:8]} is kept, the champion stays: {why}."
        self._write(key, "tried", sentence, verdict, evidence, [])
        return self._out(verdict, sentence, evidence)

    def _out(self, verdict: str, sentence: str, evidence: Mapping[str, Any]) -> Delivered:
        return Delivered(release=self.id, promoted=False, verdict=verdict, sentence=sentence, evidence=evidence)

    def _write(  # noqa: PLR0917 - an event's parts
        self, key: str, kind: str, sentence: str, verdict: str, evidence: Mapping[str, Any], roles: Sequence[RoleChange]
    ) -> None:
        now = datetime.now(UTC)
        against = self.champion.id if self.champion else None
        entry = Entry(
            app=self.ctx.app.name,
            key=key,
            at=now,
            kind=kind,
            sentence=sentence,
            body={
                "release": self.id,
                "against": against,
                "verdict": verdict,
                "evidence": dict(evidence),
                **({"about": dict(self.about)} if self.about else {}),
            },
            refs=self.refs,
            roles=tuple(roles),
        )
        self.ctx.store.ledger.append([entry], recorded_at=now)


def delivery(
    ctx: Context,
    release: Release,
    refs: tuple[Ref, ...],
    *,
    kind: str,
    epoch: int,
    about: Mapping[str, Any] | None = None,
) -> Delivery:
    """A delivery against the champion of that epoch.

    Raises:
        Conflict: ST641, there is another champion by now.
    """
    champion = ctx.store.champion(ctx.app.name)
    if champion_epoch(ctx) != epoch:
        id_ = kept(ctx, release)
        raise Conflict(
            "ST641",
            f"Release {id_[:8]} is kept, but was not delivered: there is another champion since it was begun. "
            "The same command again holds it against that one.",
            release=id_,
        )
    return Delivery(ctx=ctx, release=release, refs=refs, kind=kind, champion=champion, epoch=epoch, about=about or {})


def champion_epoch(ctx: Context) -> int:
    """How often the app's champion has changed: what a promotion must expect."""
    return _epoch(ctx, "champion")


def _epoch(ctx: Context, name: RoleName) -> int:
    role = ctx.store.ledger.role(ctx.app.name, LIVE, name)
    return role.epoch if role else 0


# ---------------------------------------------------------------- a training by hand


def train_by_hand(
    ctx: Context, past: Past, *, now: bool, about: Mapping[str, Any] | None = None
) -> Steps[tuple[Delivered | None, Trained]]:
    """Train on all that is known, and deliver what came out through the gate that the loop's own trainings pass.

    Args:
        about: what the event says beside that.

    Returns:
        What became of it (None: the champion is this code and this model already), and the training.

    Raises:
        StaytrueError: as `train` and the answers of both releases; what tells of the job is in the log too.
    """
    try:
        return (yield from _trained_by_hand(ctx, past, now=now, about=about))
    except StaytrueError as exc:
        if not tells_of_the_job(exc):
            raise
        note_failure(ctx, exc, timeline=LIVE)
        raise


def note_failure(ctx: Context, exc: StaytrueError, *, timeline: str) -> None:
    """Write down that a training came to nothing, and why."""
    now = datetime.now(UTC)
    entry = Entry(
        app=ctx.app.name,
        timeline=timeline,
        key=f"train_failed:{now.isoformat()}:{uuid.uuid4().hex}",
        at=now,
        kind="train_failed",
        sentence=f"Training failed, nothing else was changed: {exc}",
        body=exc.document(),
    )
    ctx.store.ledger.append([entry], recorded_at=now)


def _trained_by_hand(
    ctx: Context, past: Past, *, now: bool, about: Mapping[str, Any] | None
) -> Steps[tuple[Delivered | None, Trained]]:
    champion = ctx.store.champion(ctx.app.name)
    if champion is not None and champion.release.code == ctx.code:
        ctx = as_released(ctx, champion.release)
    trained = yield from train(ctx, inputs(past, 0, past.until), previous=champion.release.model if champion else None)
    # Once more: training takes its time, and another process may have been first.
    epoch, champion = champion_epoch(ctx), ctx.store.champion(ctx.app.name)
    if champion is not None and trained.model == champion.release.model and ctx.code == champion.release.code:
        return None, trained
    release, refs = yield from answered_release(ctx, trained, parents=(champion.id,) if champion else ())
    case = delivery(ctx, release, refs, kind="trained", epoch=epoch, about=about)
    if case.champion is None or now:
        first = "the first release: nothing to compare it with yet"
        return case.unopposed(first if case.champion is None else "trained by hand and let in without a trial"), trained
    if case.champion.release.is_service:
        why = "the champion is a plain service, and no labelled row can be held against it; --now lets the new one in"
        return case.kept_out(f"tried:{case.id}:{case.champion.id}:model", "undecided", why, {}), trained
    if same_answers(ctx, case.champion.release, release):
        return case.unopposed("other code, the same model and the same golden answers"), trained
    if trained.model == case.champion.release.model:
        held_out = past.back(past.until, ctx.app.settings.holdout, not_before=0)
        return (yield from case.tried(past, Comparison(held_out=held_out))), trained
    champions = case.champion.release
    how = yield from without_newest(ctx, past, past.until, old=as_it_was(ctx, champions), release=champions)
    return (yield from case.tried(past, how)), trained
