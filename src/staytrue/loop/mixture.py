"""Mixture: a release with some axes taken from another one, trained and asked like any release, and at most once.

A mixture is an ordinary recipe under ordinary code, so what was trained or answered before is not trained or answered
again, whoever asked. What does not run is an outcome of it and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.gain import Cell, Lost
from staytrue.kernel.release import Digest, Recipe, Release
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, side_by_side, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.proposal import described_context
from staytrue.loop.release import checked_out
from staytrue.loop.train import Trained, train
from staytrue.store.store import KeptRelease, Store
from staytrue.store.tables import Table

__all__ = ["Budget", "Mixed", "Mixtures", "Side", "side_of"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two releases: what answers for it, and what its model was trained by.

    `ctx` is the app as its code has it; `trainer` as the code has it that trained its model, which a revert may have taken
    from elsewhere.
    """

    id: Digest
    release: Release
    ctx: Context
    trainer: Context
    recipe: Recipe
    tables: Mapping[str, Table]


def side_of(store: Store, kept: KeptRelease, *, home: Path, metric: Any = None) -> Steps[Side]:
    """A kept release as one side of a comparison.

    Raises:
        NotFound: ST865, a plain service; ST807, the code that trained its model is not kept.
        StaytrueError: as `described_context`: its code does not import any more.
    """
    release = kept.release
    _, recipe_id = release.trained()
    recipe = store.recipe(recipe_id)
    ctx = yield from described_context(store, release.code, home=home, metric=metric)
    trainer = ctx
    if not release.as_trained and ctx.training_code != recipe.training_code:
        code = _code_of(store, recipe)
        trainer = yield from described_context(store, code, home=home, metric=ctx.app.metric)
    tables = {name: store.table_by_id(table).table for name, table in recipe.tables.items()}
    return Side(id=kept.id, release=release, ctx=ctx, trainer=trainer, recipe=recipe, tables=tables)


def _code_of(store: Store, recipe: Recipe) -> Digest:
    for kept in reversed(store.releases(timeline=None)):
        if kept.release.as_trained and kept.release.training_code == recipe.training_code:
            return kept.release.code
    text = (
        "The model of this release was trained by code that no kept release has. Blame needs it: take another release "
        "(`staytrue log` lists them)."
    )
    raise NotFound("ST807", text, training_code=recipe.training_code)


@dataclass(kw_only=True)
class Budget:
    """How much a search may cost: so many trainings, and whether its time is over; what was begun and what is done of it."""

    trainings: int
    over: Callable[[], bool] = lambda: False
    spent: int = 0
    done: int = 0

    @property
    def left(self) -> int:
        """Trainings that may still be made."""
        return 0 if self.over() else max(0, self.trainings - self.spent)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What a mixture is made of: whose code trains and whose answers, on which tables, with which settings, where.

    `model`: taken as it is, without a training.
    """

    trainer: Context
    server: Context
    tables: Mapping[str, Table]
    params: Mapping[str, Any]
    seed: int
    env: Digest
    model: Digest | None = None

    @property
    def name(self) -> tuple[Any, ...]:
        """Equal for mixtures that answer alike."""
        tables = tuple(sorted((source, table.id) for source, table in self.tables.items()))
        params = repr(sorted(self.params.items()))
        return (self.trainer.training_code, self.server.code, tables, params, self.seed, self.env, self.model)


@dataclass(kw_only=True)
class Mixtures:
    """The mixtures of two releases, and what each loses on the labelled rows of ticks `start <= i < until`.

    Args:
        fresh: the newest tables that leave these ticks out; None: there is nothing newer to train on.
        interpreters: env -> the interpreter that is one. What was made in an env that is not among them runs in this one.
        say: called with a sentence whenever something was trained.
    """

    past: Past
    good: Side
    bad: Side
    start: int
    until: int
    budget: Budget
    fresh: Mapping[str, Table] | None = None
    interpreters: Mapping[Digest, Path] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _said: None
    _trained: dict[tuple[Any, ...], Trained | str] = field(default_factory=dict)

    # ------------------------------------------------------------ what a mixture is

    def mixed(self, cell: Cell) -> Mixed:
        """What the bad release is with these changes made."""
        how = {change.axis: change.how for change in cell}

        def of(axis: str) -> Side:
            return self.good if how.get(axis) == "back" else self.bad

        tables = of("data").tables
        if how.get("data") == "fresh" and self.fresh is not None:
            tables = self.fresh
        return Mixed(
            trainer=of("training code").trainer,
            server=of("serving code").ctx,
            tables=tables,
            params=of("settings").recipe.params,
            seed=of("seed").recipe.seed,
            env=self._here(of("environment").release.env),
            model=self.good.release.model if how.get("model") == "back" else None,
        )

    def good_as_it_is(self) -> Mixed:
        """The good release."""
        good = self.good
        return Mixed(
            trainer=good.trainer,
            server=good.ctx,
            tables=good.tables,
            params=good.recipe.params,
            seed=good.recipe.seed,
            env=self._here(good.release.env),
            model=good.release.model,
        )

    def as_it_is(self, mixed: Mixed) -> Mixed:
        """With the model that one of the two releases has, where it is trained by the same."""
        if mixed.model is not None:
            return mixed
        for side in (self.bad, self.good):
            recipe, release = side.recipe, side.release
            same = (
                mixed.trainer.training_code == recipe.training_code
                and {name: table.id for name, table in mixed.tables.items()} == dict(recipe.tables)
                and dict(mixed.params) == dict(recipe.params)
                and (mixed.seed, mixed.env) == (recipe.seed, self._here(recipe.env))
            )
            if same:
                return replace(mixed, model=release.model)
        return mixed

    def _here(self, env: Digest) -> Digest:
        return env if env in self.interpreters else self.past.ctx.env

    # ------------------------------------------------------------ what it loses

    def lost(self, cells: Sequence[Cell]) -> Steps[dict[Cell, Lost]]:
        """The outcomes of mixtures; those that the budget has no training for are left out."""
        found = yield from self.outcomes([self.mixed(cell) for cell in cells])
        return {cell: lost for cell, lost in zip(cells, found, strict=True) if lost is not None}

    def outcomes(self, wanted: Sequence[Mixed]) -> Steps[list[Lost | None]]:
        """What each loses a row, oldest first, or why it does not run; None where the budget has no training for it."""
        mixed = [self.as_it_is(each) for each in wanted]
        yield from self._train([each for each in mixed if each.name not in self._trained])
        served = [self._trained.get(each.name) for each in mixed]
        able = [one for one in served if isinstance(one, Trained)]
        if able:
            yield from self.past.answered(able, self.start, self.until)
        return [one if one is None or isinstance(one, str) else self._losses(one) for one in served]

    def served(self, cell: Cell) -> Trained:
        """Who answers for a mixture that was asked for and runs."""
        return self.server(self.mixed(cell))

    def server(self, mixed: Mixed) -> Trained:
        """As `served`."""
        found = self._trained[self.as_it_is(mixed).name]
        if isinstance(found, str):
            raise NotFound("ST808", f"This mixture does not run: {found}", fails=found)
        return found

    def _losses(self, served: Trained) -> Lost:
        try:
            return np.asarray(self.past.losses_between(served, self.start, self.until))
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            return _in_short(exc)

    def _train(self, wanted: Sequence[Mixed]) -> Steps[None]:
        ready: list[Mixed] = []
        begun: set[Digest] = set()
        for mixed in {each.name: each for each in wanted}.values():
            lacks = [name for name in mixed.trainer.app.inputs() if name not in mixed.tables]
            if lacks and mixed.model is None:
                wants = f"its code trains on {', '.join(lacks)}, of which the other release has no table"
                self._trained[mixed.name] = wants
                continue
            recipe = self._untrained(mixed)
            if recipe is not None and recipe not in begun:  # of two mixtures with one recipe, one is trained
                if not self.budget.left:
                    continue
                begun.add(recipe)
                self.budget.spent += 1
            ready.append(mixed)
        done = yield from side_by_side([self._made(mixed) for mixed in ready])
        for mixed, made in zip(ready, done, strict=True):
            self._trained[mixed.name] = made if isinstance(made, Trained) else _in_short(made)

    def _untrained(self, mixed: Mixed) -> Digest | None:
        """The recipe that has to be trained for it; None when its model is there."""
        if mixed.model is not None:
            return None
        recipe = Recipe(
            training_code=mixed.trainer.training_code,
            tables={name: mixed.tables[name].id for name in mixed.trainer.app.inputs()},
            env=mixed.env,
            params=mixed.params,
            seed=mixed.seed,
            previous=self._previous(mixed.trainer),
        )
        store = self.past.ctx.store
        made = store.objects.put_document(recipe.document())
        return made if store.model_of(made) is None else None

    def _previous(self, trainer: Context) -> Digest | None:
        return self.bad.recipe.previous if trainer.app.wants_previous else None

    def _made(self, mixed: Mixed) -> Steps[Trained]:
        interpreter = self.interpreters.get(mixed.env)
        if mixed.model is not None:
            owner = self.bad.release if mixed.model == self.bad.release.model else self.good.release
            made = checked_out(self.past.ctx, owner)
        else:
            ctx = replace(mixed.trainer, params=mixed.params, seed=mixed.seed, env=mixed.env)
            if interpreter:
                ctx = replace(ctx, interpreter=interpreter)
            made = yield from train(ctx, mixed.tables, previous=self._previous(mixed.trainer))
            if made.ran:
                self.budget.done += 1
                self.say(f"training {self.budget.done} of at most {self.budget.trainings}: {made.rows:,} rows")
        made = replace(made, code=mixed.server.code, entry=mixed.server.entry)
        return replace(made, interpreter=interpreter) if interpreter else made


def _in_short(error: StaytrueError) -> str:
    """The last line of what went wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if len(lines) > 1 else lines[0] if lines else error.code
