"""Revert: a new release with exactly the named axes of an older one. Nothing is trained, nothing is rewritten."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from staytrue.errors import NotFound
from staytrue.kernel.release import Axis, Release
from staytrue.kernel.release import revert as mixed
from staytrue.loop.context import Context
from staytrue.loop.deliver import Comparison, Delivered, champion_epoch, delivery, trained_stop
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.release import golden_of, release_refs, same_answers
from staytrue.loop.service import let_in
from staytrue.store.store import KeptRelease

__all__ = ["revert", "reverted"]


def reverted(ctx: Context, current: KeptRelease, to: KeptRelease, axes: Collection[Axis]) -> Steps[Release]:
    """The release that `current` is with `axes` taken from `to`, its golden rows answered and checked.

    Raises:
        InvalidInput: as `kernel.release.revert`.    Corrupt: ST640, the golden rows of `to` do not hold any more.
    """
    yield from golden_of(ctx, to.release)
    recipes = {id_: ctx.store.recipe(id_) for id_ in (current.release.recipe, to.release.recipe) if id_}
    release = mixed(current.release, to.release, frozenset(axes), current_id=current.id, recipes=recipes)
    golden = yield from golden_of(ctx, release)
    release = replace(release, golden=golden)
    yield from golden_of(ctx, release)  # a second process must give the same answers as the first
    return release


def revert(ctx: Context, to: KeptRelease, axes: Collection[Axis], *, now: bool) -> Steps[Delivered]:
    """Make that release and deliver it: through the trial on the newest labelled rows, or at once with `now`.

    Raises:
        NotFound: ST650, the app has no champion to start from.
    """
    champion = ctx.store.champion(ctx.app.name)
    if champion is None:
        raise NotFound(
            "ST650",
            f"{ctx.app.name} has no champion yet: there is nothing to revert. `staytrue train` or `staytrue deploy` makes one.",
            app=ctx.app.name,
        )
    epoch = champion_epoch(ctx)
    release = yield from reverted(ctx, champion, to, axes)
    case = delivery(ctx, release, release_refs(ctx, release), kind="reverted", epoch=epoch)
    named = ", ".join(sorted(axes))
    if now:
        return case.unopposed(f"{named} taken from {to.id[:8]} by hand, without a trial")
    if release.is_service or champion.release.is_service:
        return (yield from let_in(case, now=False))
    if same_answers(ctx, champion.release, release):
        return case.unopposed(f"{named} taken from {to.id[:8]}; the model and the golden answers are the same")
    past = Past.whole(ctx)
    if release.model == champion.release.model:
        held_out = past.back(past.until, ctx.app.settings.holdout, not_before=0)
    else:
        # A model is no measure on rows that it was trained on.
        held_out = max(trained_stop(ctx, each, past) for each in (champion.release, release))
    return (yield from case.tried(past, Comparison(held_out=held_out)))
