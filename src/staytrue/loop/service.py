"""Service: releases of a plain service, from the present code to those who ask it. Code alone: no rows, no training.

What a release of it answers to its examples is what it is known by. A release that answers as the champion does is let in
at once; another one has to prove itself on a share of the traffic, under `staytrue up`, or is let in by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from staytrue.errors import InvalidInput, StaytrueError
from staytrue.kernel.release import Digest, Release
from staytrue.kernel.rollout import Advice, Served, Step, advance_service
from staytrue.loop.context import Context
from staytrue.loop.deliver import Delivered, Delivery, champion_epoch, delivery
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.release import examples_answered, golden_of, release_refs
from staytrue.store import models
from staytrue.store.counts import answered_rows
from staytrue.store.ledger import LIVE
from staytrue.store.models import Golden
from staytrue.store.store import Store

__all__ = ["answers_differ", "deliver_service", "let_in", "service_advice", "service_release"]


def service_release(ctx: Context, *, parents: tuple[Digest, ...] = ()) -> Steps[Release]:
    """The release that the present code makes, once it has answered its examples, twice and alike. Nothing is recorded.

    Raises:
        InvalidInput: ST870, the app trains, or has no function that answers; ST303 to ST306, the function raised, or gave
            something else than one plain answer a row; ST869, it answers otherwise when it is asked again.
        Refused: ST362, it took too long or was killed.
    """
    app = ctx.app.check()
    if not app.is_service or not app.examples:
        raise InvalidInput(
            "ST870",
            f"App {app.name!r} is no plain service: "
            + (
                "it has no @app.predict."
                if app.is_service
                else "it has data or training. `staytrue train` makes releases."
            ),
            app=app.name,
        )
    release = Release(
        app=app.name,
        code=ctx.code,
        training_code=ctx.training_code,
        tables={},
        env=ctx.env,
        params={},
        seed=0,
        model=None,
        recipe=None,
        as_trained=True,
        parents=parents,
    )
    return replace(release, golden=(yield from golden_of(ctx, release)))


def deliver_service(ctx: Context, *, now: bool = False) -> Steps[Delivered | None]:
    """Make a release of the present code, and let it in: the first one at once, another one as `let_in` says.

    Args:
        now: make it champion without a trial.

    Returns:
        What became of it; with the verdict `undecided` it is kept, and waits for a canary. None: the champion is this code
        already.

    Raises:
        Conflict: ST641, another champion came meanwhile. And as `service_release`.
    """
    epoch, champion = champion_epoch(ctx), ctx.store.champion(ctx.app.name)
    if champion is not None and (champion.release.code, champion.release.env) == (ctx.code, ctx.env):
        return None
    release = yield from service_release(ctx, parents=(champion.id,) if champion else ())
    case = delivery(ctx, release, release_refs(ctx, release), kind="deployed", epoch=epoch)
    return (yield from let_in(case, now=now))


def let_in(case: Delivery, *, now: bool) -> Steps[Delivered]:
    """Make a plain service's release champion if nobody can tell it from the one that answers; else it waits for a canary.

    The release is kept in both cases. Asked again about the same two releases, it says the same.
    """
    if case.champion is None:
        return case.unopposed("the first release: nothing to compare it with yet")
    if now:
        return case.unopposed("let in by hand, without a trial")
    differs = yield from answers_differ(case.ctx, case.champion.release, case.release)
    if differs is None:
        return case.unopposed("other code, the same answers to every example")
    key = f"tried:{case.id}:{case.champion.id}:examples"
    before = case.ctx.store.ledger.events(case.ctx.app.name, LIVE, kinds=["tried"])
    known = next((event for event in before if event.key == key), None)
    if known is not None:
        return Delivered(
            release=case.id,
            promoted=False,
            verdict=known.body["verdict"],
            sentence=known.sentence,
            evidence=known.body["evidence"],
        )
    why = f"{differs}; a share of the traffic has to tell (`staytrue deploy` while `staytrue up` runs), --now lets it in at once"
    return case.kept_out(key, "undecided", why, {"differs": differs})


def answers_differ(ctx: Context, old: Release, new: Release) -> Steps[str | None]:
    """None when both releases give the same answers to the examples of either; else the first difference, in words.

    What one of them can't answer is a difference: a column that is new, or a function that raises.
    """
    if not (old.is_service and new.is_service) or old.golden is None or new.golden is None:
        return "only one of the two is a plain service"
    before, after = (Golden.from_document(ctx.store.objects.get_document(g)) for g in (old.golden, new.golden))
    if before.rows == after.rows:
        found = models.answers_equal(before.answers, after.answers)
        return found and f"example {found}"
    for golden, asked, whose in ((before, new, "champion"), (after, old, "new release")):
        try:
            answers = yield from examples_answered(ctx, asked, golden.rows)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            return f"the examples of the {whose} are not answered by the other: {exc}"
        # What is expected is always what the champion says.
        pair = (golden.answers, answers) if asked is new else (answers, golden.answers)
        found = models.answers_equal(*pair)
        if found:
            return f"of the {whose}'s examples, {found}"
    return None


# ---------------------------------------------------------------- a trial without labels


def service_advice(
    store: Store, app: str, step: Step, *, challenger: Digest, champion: Digest, since: datetime, over: bool
) -> Advice:
    """What the traffic since this step began says of a plain service's challenger; to be asked again and again.

    Args:
        step: of `kernel.rollout.service_steps`: shadow or canary.
        since: when the step began.
        over: whether the trial's budget of rows or days is spent.
    """
    tripped = _tripped(store, app, challenger, since)
    counts = answered_rows(store, app, since)
    arm = "shadow" if step.stage == "shadow" else "challenger"
    mine, theirs = counts.get((challenger, arm), 0), counts.get((champion, "champion"), 0)
    failed = int(tripped.get("failed", 0)) if tripped else 0
    return advance_service(
        Served(answered=mine, failed=failed),
        Served(answered=theirs),
        needed=step.rows,
        over=over,
        tripped=str(tripped["guard"]) if tripped else None,
    )


def _tripped(store: Store, app: str, release: Digest, since: datetime) -> Mapping[str, Any] | None:
    """What the front has said when a guard cut this release off, since then."""
    events = store.ledger.events(app, LIVE, kinds=["tripped"], newest_first=True)
    return next((event.body for event in events if event.body["release"] == release and event.at >= since), None)
