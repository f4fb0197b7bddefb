"""Deliver: make a release, hold it against the champion, and change who answers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from staytrue.engines.process import Job
from staytrue.errors import Conflict, Corrupt, StaytrueError
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest, Release
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.train import Trained, train
from staytrue.loop.trial import inputs, pairs
from staytrue.store import code as code_store
from staytrue.store import models
from staytrue.store.ledger import LIVE, Entry, Ref, RoleChange, RoleName
from staytrue.store.models import Golden
from staytrue.store.store import KeptRelease

__all__ = ["Delivered", "checked_out", "deliver", "golden_of", "kept", "new_release", "note_failure", "release_refs", "train_by_hand"]

_NEW_ROWS = 100
"""Fewer labelled rows since the champion's training than this say nothing about it."""


def new_release(
    ctx: Context, trained: Trained, *, scores: Mapping[str, float], parents: tuple[Digest, ...]
) -> tuple[Digest, tuple[Ref, ...]]:
    """The id of the release that this code and this model make, and the references that keep it."""
    release = Release(
        app=ctx.app.name,
        code=ctx.code,
        training_code=ctx.training_code,
        tables=dict(trained.tables),
        env=ctx.env,
        params=dict(ctx.app.params),
        seed=ctx.app.seed,
        model=trained.model,
        recipe=trained.recipe,
        as_trained=True,
        golden=trained.golden,
        scores={name: round(value, 6) for name, value in scores.items()},
        parents=parents,
    )
    return kept(ctx, release), (*release_refs(ctx, release), *trained.refs)


def kept(ctx: Context, release: Release) -> Digest:
    """The id of a release, once its document is an object."""
    return ctx.store.objects.put_document(release.document())


def release_refs(ctx: Context, release: Release) -> tuple[Ref, ...]:
    """The reference that makes a release exist; what it names is kept with it."""
    id_ = kept(ctx, release)
    return (Ref(kind="release", name=id_, digest=id_),)


def checked_out(ctx: Context, release: Release) -> Trained:
    """Who answers for a release: its model, and its own code, checked out of the store."""
    code = code_store.load(ctx.store.objects, release.code)
    tree = code_store.checkout(ctx.store.objects, code.id, ctx.store.work / "code" / code.id)
    return Trained(
        code=release.code,
        entry=tree / code.entry,
        model=release.model,
        recipe=release.recipe,
        tables=release.tables,
        golden=release.golden,
        seal=ctx.store.seal_of(release.model),
        rows=0,
        ran=False,
    )


def golden_of(ctx: Context, release: Release) -> Steps[Digest | None]:
    """The golden rows of a release: the inputs that its model was sealed with, and what its own code answers to them.

    A release that has golden rows already must give the same answers again.

    Raises:
        Corrupt: ST640, it does not: model, code or a library is not what it was.
    """
    sealed = ctx.store.objects.get_document(release.model).get("golden")
    if sealed is None:
        return None
    rows = Golden.from_document(ctx.store.objects.get_document(Digest(sealed))).rows
    server = checked_out(ctx, release)
    job = Job(
        key=f"golden:{release.code}:{release.model}",
        task="staytrue.loop.tasks:golden",
        payload=ctx.payload(model=release.model, seal=server.seal, rows=rows) | {"entry": str(server.entry)},
        workspace=server.entry.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
    )
    outcome = (yield [job])[0]
    answers = result_of(outcome, doing=f"answer the golden rows with model {release.model[:8]}")["golden"]
    if release.golden is None:
        return ctx.store.objects.put_document(Golden(rows=rows, answers=answers).document())
    known = Golden.from_document(ctx.store.objects.get_document(release.golden))
    differs = models.answers_equal(known.answers, answers)
    if differs:
        raise Corrupt(
            "ST640",
            f"Model {release.model[:8]} does not give its golden answers again: {differs}.",
            model=release.model,
        )
    return release.golden


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What became of a release that was delivered by hand."""

    release: Digest
    promoted: bool
    verdict: str
    sentence: str
    evidence: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "release": self.release,
            "promoted": self.promoted,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
        }


def deliver(
    ctx: Context, release: Release, refs: tuple[Ref, ...], past: Past, *, kind: str, held_out: int = 0, now_says: str | None = None,
    servers: tuple[Trained, Trained] | None = None, epoch: int | None = None,
) -> Steps[Delivered]:  # fmt: skip
    """Put a release on trial against the champion on the newest labelled rows, and let it in on evidence.

    Args:
        past: the labelled rows.
        kind: of the event, such as `trained` or `reverted`.
        held_out: the first tick that neither release was trained on.
        now_says: why there is no trial (`--now`); None tries it.
        servers: who answers for champion and release, when not they themselves (a backtest without the newest rows).
        epoch: of the champion that the caller has looked at; None looks now.

    The first release of an app has nothing to be compared with: it becomes champion.

    Raises:
        Conflict: ST641, ST416, there is another champion than the one it was held against.
    """
    id_ = kept(ctx, release)
    # The epoch first: a champion that changes from here on is refused by the ledger.
    epoch = _epoch(ctx) if epoch is None else epoch
    champion = ctx.store.champion(ctx.app.name)
    if _epoch(ctx) != epoch:
        raise Conflict(
            "ST641",
            f"Release {id_[:8]} is kept, but was not delivered: there is another champion since it was begun. "
            "The same command again holds it against that one.",
            release=id_,
        )
    if champion is None or now_says:
        why = now_says or "the first release: nothing to compare it with yet"
        return _promoted(
            ctx,
            id_,
            refs,
            champion,
            epoch,
            kind,
            "unopposed" if champion is None else "forced",
            f"Release {id_[:8]} is champion: {why}.",
            {},
        )
    old, new = servers or (checked_out(ctx, champion.release), checked_out(ctx, release))
    yield from past.answered([old, new], held_out, past.until)
    number = 1 + len(ctx.store.ledger.events(app=ctx.app.name, timeline=LIVE, kinds=["promoted", "rejected", "tried"]))
    evidence = yield from pairs(past, ctx.app.settings, old, new, stop=held_out, number=number)
    for tick in range(held_out, past.until):
        evidence = evidence.seen(past, tick, past.losses(new, tick) - past.losses(old, tick))
    judgement = evidence.judged()
    if judgement.verdict in ("better", "not_worse"):
        return _promoted(
            ctx,
            id_,
            refs,
            champion,
            epoch,
            kind,
            judgement.verdict,
            f"Release {id_[:8]} is champion: {judgement.sentence}.",
            judgement.evidence,
        )
    sentence = f"Release {id_[:8]} is kept, the champion stays: {judgement.sentence}."
    entry = _entry(ctx, "tried", id_, sentence, judgement.verdict, judgement.evidence, refs, (), champion)
    ctx.store.ledger.append([entry], recorded_at=datetime.now(UTC))
    return Delivered(
        release=id_, promoted=False, verdict=judgement.verdict, sentence=sentence, evidence=judgement.evidence
    )


def _promoted(
    ctx: Context, id_: Digest, refs: tuple[Ref, ...], champion: KeptRelease | None, epoch: int, kind: str, verdict: str,
    sentence: str, evidence: Mapping[str, Any],
) -> Delivered:  # fmt: skip
    roles = [RoleChange(role="champion", release=id_, share=1.0, expect_epoch=epoch)]
    if champion is not None:
        previous = _epoch(ctx, "previous")
        roles.append(RoleChange(role="previous", release=champion.id, share=0.0, expect_epoch=previous))
    event = "deployed" if champion is None else kind
    entry = _entry(ctx, event, id_, sentence, verdict, evidence, refs, tuple(roles), champion)
    ctx.store.ledger.append([entry], recorded_at=datetime.now(UTC))
    return Delivered(release=id_, promoted=True, verdict=verdict, sentence=sentence, evidence=evidence)


def _epoch(ctx: Context, name: RoleName = "champion") -> int:
    role = ctx.store.ledger.role(ctx.app.name, LIVE, name)
    return role.epoch if role else 0


def _entry(
    ctx: Context, kind: str, id_: Digest, sentence: str, verdict: str, evidence: Mapping[str, Any], refs: tuple[Ref, ...],
    roles: tuple[RoleChange, ...], champion: KeptRelease | None,
) -> Entry:  # fmt: skip
    now = datetime.now(UTC)
    against = champion.id if champion else None
    return Entry(
        app=ctx.app.name,
        # One event for this release against this champion at this epoch: the same command twice has one effect.
        key=f"{kind}:{id_}:{against}:{roles[0].expect_epoch if roles else now.isoformat()}",
        at=now,
        kind=kind,
        sentence=sentence,
        body={"release": id_, "against": against, "verdict": verdict, "evidence": dict(evidence)},
        refs=refs,
        roles=roles,
    )


def train_by_hand(ctx: Context, past: Past, *, now: bool) -> Steps[tuple[Delivered | None, Trained]]:
    """Train on all that is known, and deliver what came out through the gate that the loop's own trainings pass.

    Returns:
        What became of it (None: the champion is this code and this model already), and the training.

    Raises:
        StaytrueError: as `train` and the answers of both releases; what tells of the job is in the log too.
    """
    try:
        return (yield from _trained_by_hand(ctx, past, now=now))
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


def _trained_by_hand(ctx: Context, past: Past, *, now: bool) -> Steps[tuple[Delivered | None, Trained]]:
    champion = ctx.store.champion(ctx.app.name)
    trained = yield from train(ctx, inputs(past, 0, past.until), previous=champion.release.model if champion else None)
    # Once more: training takes its time, and another process may have been first.
    epoch, champion = _epoch(ctx), ctx.store.champion(ctx.app.name)
    if champion is not None and trained.model == champion.release.model and ctx.code == champion.release.code:
        return None, trained
    id_, refs = new_release(ctx, trained, scores={}, parents=(champion.id,) if champion else ())
    release = ctx.store.release_document(id_)
    says = "trained by hand and let in without a trial" if now else None
    if champion is None or now:
        return (yield from deliver(ctx, release, refs, past, kind="trained", now_says=says, epoch=epoch)), trained
    if trained.model == champion.release.model:
        return (yield from _new_code(ctx, champion, release, refs, past, epoch=epoch)), trained
    held_out, servers = yield from _without_newest(ctx, champion, past)
    done = yield from deliver(ctx, release, refs, past, kind="trained", held_out=held_out, servers=servers, epoch=epoch)
    return done, trained


def _new_code(
    ctx: Context, champion: KeptRelease, release: Release, refs: tuple[Ref, ...], past: Past, *, epoch: int
) -> Steps[Delivered]:
    """The champion's model under other code: what answers the golden rows alike needs no trial, what does not gets one."""
    golden = yield from golden_of(ctx, replace(release, golden=None))
    release = replace(release, golden=golden)
    refs = (*release_refs(ctx, release), *(r for r in refs if r.kind != "release"))
    says = None
    if golden is not None and champion.release.golden is not None:
        old, new = (Golden.from_document(ctx.store.objects.get_document(g)) for g in (champion.release.golden, golden))
        if models.answers_equal(old.answers, new.answers) is None:
            says = "other code, the same model and the same golden answers"
    held_out = past.back(past.until, ctx.app.settings.holdout, not_before=0)
    done = yield from deliver(
        ctx, release, refs, past, kind="trained", held_out=held_out, now_says=says, epoch=epoch
    )  # fmt: skip
    return done


def _without_newest(ctx: Context, champion: KeptRelease, past: Past) -> Steps[tuple[int, tuple[Trained, Trained]]]:
    """Champion and challenger as they are without the newest rows: the first tick held out, and who answers from there on.

    Where enough rows came since the champion's training, it is the champion itself; else its own code is trained without them too,
    for a champion that has seen the answers is no measure.
    """
    settings = ctx.app.settings
    trained_until = ctx.store.table_by_id(champion.release.tables[past.spec.name]).table.until
    stop = sum(t.part.until <= trained_until for t in past.ticks) if trained_until else 0
    came = past.rows(stop, past.until)
    if came >= _NEW_ROWS:
        cut = past.back(past.until, min(settings.holdout, came // 2), not_before=stop)
        old = checked_out(ctx, champion.release)
    else:
        cut = past.back(past.until, min(settings.holdout, past.rows(0, past.until) // 5), not_before=1)
        old = yield from train(_as_it_was(ctx, champion.release), inputs(past, 0, cut))
    new = yield from train(ctx, inputs(past, 0, cut))
    return cut, (old, new)


def _as_it_was(ctx: Context, release: Release) -> Context:
    tree = checked_out(ctx, release).entry.parent
    return replace(ctx, code=release.code, training_code=release.training_code, tree=tree)
