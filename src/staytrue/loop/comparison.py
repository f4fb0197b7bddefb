"""Comparison: two releases held against each other on labelled rows that neither was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from staytrue.kernel.policy import Settings
from staytrue.kernel.release import Release
from staytrue.loop.context import Context, as_released
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.release import checked_out
from staytrue.loop.train import Trained, train
from staytrue.loop.trial import Backtest, inputs, pairs

__all__ = ["NEW_ROWS", "Comparison", "as_it_was", "compared", "trained_stop", "unseen", "without_newest"]

NEW_ROWS = 100
"""Fewer labelled rows since the champion's training than this say nothing about it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a release is held against the champion: who answers for both, from which tick on.

    `held_out` is the first tick whose labels neither was trained on. `servers` answer for champion and release where these
    themselves can't be compared (a backtest without the newest rows).
    """

    held_out: int
    servers: tuple[Trained, Trained] | None = None


def trained_stop(ctx: Context, release: Release, past: Past) -> int:
    """The release's model was trained on ticks before this one. Raises NotFound: ST865, it has no model."""
    _, recipe = release.trained()
    tables = ctx.store.recipe(recipe).tables
    # Older code may have another name for the source: then whatever it learned from ends its training.
    learned = [tables[past.spec.name]] if past.spec.name in tables else list(tables.values())
    ends = [until for table in learned if (until := ctx.store.table_by_id(table).table.until)]
    return sum(t.part.until <= max(ends) for t in past.ticks) if ends else 0


def unseen(ctx: Context, past: Past, champion: Release, release: Release, *, stop: int) -> int:
    """The first of the ticks before `stop` whose labels neither of the two was trained on.

    Of one model under two codes it begins a backtest's rows: both have seen them alike, and they tell what the code changes.
    """
    if release.model == champion.model:
        return past.back(stop, past.ctx.app.settings.holdout, not_before=0)
    # A model is no measure on rows that it was trained on.
    return min(stop, max(trained_stop(ctx, each, past) for each in (champion, release)))


def without_newest(
    new: Context, past: Past, stop: int, *, old: Context, release: Release | None, new_past: Past | None = None
) -> Steps[Comparison]:
    """Old and new code as they are without the newest rows before tick `stop`.

    Where enough rows came since the old release's training, it is that release itself; else its code is trained without
    them too, for a model that has seen the answers is no measure.

    Args:
        old: the context of the code that `release` is of.
        release: None: the old code was never released.
        new_past: the same ticks as the new code asks for them, where that differs.
    """
    settings = past.ctx.app.settings
    seen = trained_stop(new, release, past) if release else stop
    came = past.rows(seen, stop)
    if release and came >= 2 * NEW_ROWS:
        cut = past.back(stop, min(settings.holdout, came // 2), not_before=seen)
        before = checked_out(new, release)
    else:
        cut = past.back(stop, min(settings.holdout, past.rows(0, stop) // 5), not_before=1)
        before = yield from train(old, inputs(past, 0, cut))
    after = yield from train(new, inputs(new_past or past, 0, cut))
    return Comparison(held_out=cut, servers=(before, after))


def as_it_was(ctx: Context, release: Release) -> Context:
    """The context with the code, params and seed of a release in the place of its own."""
    tree = checked_out(ctx, release).entry.parent
    return replace(as_released(ctx, release), code=release.code, training_code=release.training_code, tree=tree)


def compared(
    past: Past, settings: Settings, servers: tuple[Trained, Trained], *, cut: int, stop: int, number: int
) -> Steps[Backtest]:
    """What the rows of ticks `cut <= i < stop` show of an old and a new release: at least one labelled row is needed.

    Args:
        number: of the trial, for its share of the error budget.
    """
    old, new = servers
    yield from past.answered([old, new], cut, stop)
    evidence = yield from pairs(past, settings, old, new, stop=cut, number=number)
    for tick in range(cut, stop):
        evidence = evidence.seen(past, tick, past.losses(new, tick) - past.losses(old, tick))
    return Backtest(
        window="all",
        start=0,
        cut=cut,
        held_out=past.rows(cut, stop),
        pairs=evidence,
        judgement=evidence.judged(),
        champion_loss=float(past.losses_between(old, cut, stop).mean()),
        challenger_loss=float(past.losses_between(new, cut, stop).mean()),
        trained=sum(server.ran for server in servers),
    )
