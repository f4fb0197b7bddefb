"""Culprits: inside a guilty axis, which commit, which part, which setting, which column it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from staytrue.errors import NotFound, StaytrueError, Unavailable
from staytrue.kernel.blame import Repair
from staytrue.kernel.blame_report import Culprit
from staytrue.kernel.culprit import first_bad, suspects
from staytrue.kernel.gain import Cell, Change, Lost, gain
from staytrue.kernel.release import Digest
from staytrue.loop.checking.change import behaves_alike
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.mixture import Mixtures, Side
from staytrue.loop.past import Past, Tick
from staytrue.loop.proposal import described_context, of_commit
from staytrue.loop.train import Trained
from staytrue.store import tables
from staytrue.store.git import Repository, open_repository
from staytrue.store.ledger import LIVE
from staytrue.store.tables import Part, Table

__all__ = ["culprits_of"]

_DATA: Final = Change(axis="data")
_SETTINGS: Final = Change(axis="settings")
_CODE: Final = (Change(axis="training code"), Change(axis="serving code"))
_ENOUGH: Final = 0.8
"""Of what the whole axis wins back, this much has to come from what is named."""
_SOME: Final = 0.2
"""A part without which less than this of it is won back is not named."""
_COMMITS: Final = 200
_COLUMNS: Final = 3
_TIMES: Final = ("timestamp", "date")
_HARDLY: Final = 0.05
_FEWEST: Final = 30
"""Fewer rows of a group say nothing about it."""
_BEYOND: Final = 1.5
"""So many times what is usual has a group's loss to have grown by, and by so many standard errors, to be named."""
_SURE: Final = 4.0
_MATTERS: Final = 0.5
"""And by this share of what a row of any kind loses today: a kind of rows that is easy one month is harder the next."""


def culprits_of(mixtures: Mixtures, found: Repair, blocks: np.ndarray) -> Steps[list[Culprit]]:
    """What it was inside each axis of the repair, as far as the budget goes."""
    inside = _Inside(mixtures=mixtures, found=found, blocks=blocks)
    named: list[Culprit] = []
    if any(change in _CODE for change in found.changes):
        named += yield from inside.commits()
    if _DATA in found.changes:
        named += yield from inside.parts()
        named += yield from inside.groups()
        named += inside.columns()
    if Change(axis="data", how="fresh") in found.changes:
        named += inside.age()
    if _SETTINGS in found.changes:
        named += yield from inside.settings()
    return named


@dataclass(frozen=True, kw_only=True)
class _Inside:
    mixtures: Mixtures
    found: Repair
    blocks: np.ndarray

    def _before(self, axes: Sequence[Change]) -> tuple[Cell, float]:
        """The repair without these changes, and what they win on top of it."""
        rest: Cell = frozenset(self.found.changes) - set(axes)
        whole: Cell = frozenset(self.found.changes)
        lost = self.found.lost
        if rest in lost and whole in lost:
            return rest, gain(lost[rest], lost[whole], self.blocks).mean
        none: Cell = frozenset()
        alone = frozenset(axes) & whole
        return none, gain(lost[none], lost[alone], self.blocks).mean if alone in lost else 0.0

    def _won(self, rest: Cell, lost: Lost | None) -> float | None:
        """What a mixture wins over the repair without the axis; None when it does not run or could not be tried."""
        before = self.found.lost[rest]
        if isinstance(lost, np.ndarray) and isinstance(before, np.ndarray):
            return float((before - lost).mean())
        return None

    # ------------------------------------------------------------ settings

    def settings(self) -> Steps[list[Culprit]]:
        """Which key it was: each taken back alone."""
        ours, theirs = self.mixtures.good.recipe.params, self.mixtures.bad.recipe.params
        keys = [key for key in sorted({*ours, *theirs}) if ours.get(key, ...) != theirs.get(key, ...)]
        if len(keys) < 2:
            return []
        rest, whole = self._before([_SETTINGS])
        base, spent = self.mixtures.mixed(rest), self.mixtures.budget.spent
        mixed = [replace(base, params=_taken(theirs, ours, key)) for key in keys]
        outcomes = yield from self.mixtures.outcomes(mixed)
        won = {key: self._won(rest, lost) for key, lost in zip(keys, outcomes, strict=True)}
        known = {key: value for key, value in won.items() if value is not None}
        best = max(known, key=lambda key: known[key], default=None)
        if best is None or known[best] < _ENOUGH * whole:
            return []
        sentence = (
            f"The setting {best} alone is it: taken back from {_value(theirs, best)} to {_value(ours, best)} it wins "
            f"{known[best]:.3g} a row."
        )
        return [
            Culprit(
                axis="settings",
                kind="setting",
                name=best,
                sentence=sentence,
                trainings=self.mixtures.budget.spent - spent,
                facts={"won": known},
            )
        ]

    # ------------------------------------------------------------ data

    def parts(self) -> Steps[list[Culprit]]:
        """Which of the new parts it was: those that the good release, which never saw them, answers worst."""
        mixtures = self.mixtures
        name = mixtures.past.spec.name
        table = mixtures.bad.tables[name]
        known = {part.content for part in mixtures.good.tables[name].parts}
        past = _past_of(mixtures.past, table)
        new = [t.index for t in past.ticks if t.part.content not in known and past.rows(t.index, t.index + 1)]
        if len(new) < 2:
            return []
        served = mixtures.server(mixtures.good_as_it_is())
        try:
            yield from past.answered([served], new[0], new[-1] + 1)
            losses = [np.asarray(past.losses(served, tick)) for tick in new]
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            return []
        looked = suspects(losses)
        bad = [new[one.index] for one in looked if one.clear]
        usual = float(np.median([each.mean() for each in losses]))
        if not bad or len(bad) > len(new) // 2:
            return []
        return (yield from self._without(table, past, bad, {new[one.index]: one.loss for one in looked}, usual))

    def _without(
        self, table: Table, past: Past, bad: Sequence[int], losses: Mapping[int, float], usual: float
    ) -> Steps[list[Culprit]]:
        """The parts that stand out, and whether leaving them out is enough."""
        mixtures = self.mixtures
        rest, whole = self._before([_DATA])
        base, spent = mixtures.mixed(rest), mixtures.budget.spent
        left = tables.without(table, [past.ticks[tick].part for tick in bad])
        (lost,) = yield from mixtures.outcomes([replace(base, tables={**base.tables, table.source: left})])
        won = self._won(rest, lost)
        if won is not None and won < _SOME * whole:
            return []  # it stands out, but is not what did it
        enough = won is not None and won >= _ENOUGH * whole
        days = ", ".join(_span(past.ticks[tick].part) for tick in sorted(bad)[:5])
        days += f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        how = (
            f"without {'them' if len(bad) > 1 else 'it'} {won:.3g} a row of {whole:.3g} are won back"
            if won is not None
            else "whether they are all of it was not tried"
        )
        worst = max(losses[tick] for tick in bad)
        sentence = (
            f"{'Parts' if len(bad) > 1 else 'The part'} {days} of {table.source} stand{'' if len(bad) > 1 else 's'} out: "
            f"{mixtures.good.id[:8]}, which never saw {'them' if len(bad) > 1 else 'it'}, loses {worst:.3g} a row there "
            f"against {usual:.3g} elsewhere; {how}."
        )
        windows = [[past.ticks[t].part.since.isoformat(), past.ticks[t].part.until.isoformat()] for t in sorted(bad)]
        facts = {"source": table.source, "windows": windows, "enough": enough, "won": won, "whole": whole}
        trainings = mixtures.budget.spent - spent
        return [Culprit(axis="data", kind="parts", name=days, sentence=sentence, trainings=trainings, facts=facts)]

    def groups(self) -> Steps[list[Culprit]]:
        """Which values of a segment the good release, which never saw them, answers far worse in the new rows than today."""
        mixtures, today = self.mixtures, self.mixtures.past
        table = mixtures.bad.tables[today.spec.name]
        known = {part.content for part in mixtures.good.tables[today.spec.name].parts}
        past = _past_of(today, table)
        new = [t.index for t in past.ticks if t.part.content not in known and past.rows(t.index, t.index + 1)]
        segments = today.ctx.app.segments
        if not new or not segments:
            return []
        served = mixtures.server(mixtures.good_as_it_is())
        try:
            yield from past.answered([served], new[0], new[-1] + 1)
            found = [
                _strange(name, past, new, today, range(mixtures.start, mixtures.until), served) for name in segments
            ]
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            return []
        return [self._strangers(table.source, name, odd) for name, odd in zip(segments, found, strict=True) if odd]

    def _strangers(self, source: str, name: str, odd: Mapping[str, tuple[float, float]]) -> Culprit:
        told = [f"{value} ({there:.3g} a row against {now:.3g})" for value, (there, now) in odd.items()]
        sentence = (
            f"In the new rows of {source}, {name} {', '.join(told)} stand{'' if len(odd) > 1 else 's'} out: so much more does "
            f"{self.mixtures.good.id[:8]}, which never saw them, lose there than on today's rows of the same kind."
        )
        facts = {"source": source, "segment": name, "values": {value: list(pair) for value, pair in odd.items()}}
        return Culprit(axis="data", kind="segment", name=f"{name} {', '.join(odd)}", sentence=sentence, facts=facts)

    def columns(self) -> list[Culprit]:
        """What moved most in the rows that came or changed."""
        found = []
        objects = self.mixtures.past.ctx.store.objects
        for name, new in self.mixtures.bad.tables.items():
            old = self.mixtures.good.tables.get(name)
            if old is None or old.id == new.id:
                continue
            # Time moves by itself, and so does any other column that holds one.
            spec_roles = {new.time, new.key} | {column for column, kind in new.schema if kind.startswith(_TIMES)}
            columns = tables.diff(objects, old, new)["columns"]
            moved = sorted(
                ((column, d["moved"]) for column, d in columns.items() if column not in spec_roles),
                key=lambda one: -one[1],
            )
            told = [f"{column} ({share:.0%})" for column, share in moved[:_COLUMNS] if share > _HARDLY]
            if told:
                sentence = f"In {name} these columns moved most (share of rows): {', '.join(told)}."
                facts = {"source": name, "moved": dict(moved[:_COLUMNS])}
                found.append(Culprit(axis="data", kind="columns", name=moved[0][0], sentence=sentence, facts=facts))
        return found

    def age(self) -> list[Culprit]:
        """How old the rows are that the bad release learned from."""
        mixtures = self.mixtures
        today = mixtures.past.ticks[mixtures.start].part.since
        found = []
        for name, table in mixtures.bad.tables.items():
            fresh = (mixtures.fresh or {}).get(name)
            if table.until and fresh is not None and fresh.until and fresh.until > table.until:
                days = (today - table.until).total_seconds() / 86400
                sentence = (
                    f"It learned from {name} up to {table.until:%Y-%m-%d}, {days:.0f} days before today's rows; rows up to "
                    f"{fresh.until:%Y-%m-%d} are there."
                )
                facts = {
                    "source": name,
                    "learned_until": table.until.isoformat(),
                    "there_until": fresh.until.isoformat(),
                }
                found.append(Culprit(axis="data", kind="age", name=name, sentence=sentence, facts=facts))
        return found

    # ------------------------------------------------------------ code

    def commits(self) -> Steps[list[Culprit]]:
        """Which commit it was, by bisection; docs-only commits are passed over, and equal recipes are not trained again."""
        mixtures = self.mixtures
        try:
            repository = open_repository(mixtures.past.ctx.home)
            line = _line(mixtures, repository)
        except (NotFound, Unavailable):
            return []
        if len(line) < 2:
            return [_only(repository, line[0][0])] if line else []
        axes = [change for change in self.found.changes if change in _CODE]
        rest, whole = self._before(axes)
        spent, asked = mixtures.budget.spent, 0
        search = first_bad(len(line))
        step, place = next(search), None
        while place is None:
            won = None
            ctx = yield from _context(mixtures, line[step - 1][1])
            if ctx is not None:
                mixed = replace(mixtures.mixed(rest), **{_FIELD[change.axis]: ctx for change in axes})
                (lost,) = yield from mixtures.outcomes([mixed])
                if lost is None:  # the budget is spent
                    return []
                won = self._won(rest, lost)
                asked += 1
            try:
                step = search.send(None if won is None else won < whole / 2)
            except StopIteration as stop:
                place = stop.value
        first, last = place
        trainings = mixtures.budget.spent - spent
        if first != last:
            ids = [line[at - 1][0] for at in range(first, last + 1)]
            sentence = (
                f"It came with one of {len(ids)} commits that do not all run: {', '.join(c[:8] for c in ids[:5])}."
            )
            return [Culprit(axis="code", kind="commits", name=ids[-1], sentence=sentence, trainings=trainings)]
        return [_named(repository, line[last - 1][0], of=len(line), asked=asked, trainings=trainings)]


_FIELD: Final = {"training code": "trainer", "serving code": "server"}


def _context(mixtures: Mixtures, code: Digest) -> Steps[Any]:
    """The app as a commit has it; None when it does not import."""
    ctx = mixtures.bad.ctx
    try:
        return (yield from described_context(ctx.store, code, home=ctx.home, metric=ctx.app.metric))
    except StaytrueError as exc:
        if not tells_of_the_job(exc):
            raise
        return None


def _line(mixtures: Mixtures, repository: Repository) -> list[tuple[str, Digest]]:
    """The commits after the good release's up to the bad one's that may change an answer, oldest first, each with its code."""
    store, home = mixtures.past.ctx.store, mixtures.past.ctx.file
    file = mixtures.past.ctx.home / home.name
    good, bad = (_commit_of(mixtures, side, repository) for side in (mixtures.good, mixtures.bad))
    if good is None or bad is None:
        return []
    said = repository.run(
        "rev-list", "--reverse", "--ancestry-path", f"{good}..{bad}", "--", f":/{repository.prefix}", may_fail=True
    )
    line: list[tuple[str, Digest]] = []
    before = mixtures.good.release.code
    for commit in said.split():
        code = of_commit(store, repository, commit, file).code
        if code != before and not behaves_alike(store.objects, before, code):
            line.append((commit, code))
        before = code
    return line


def _commit_of(mixtures: Mixtures, side: Side, repository: Repository) -> str | None:
    """The commit whose files a release's code is: as the loop was told, or else the newest that has them."""
    store = mixtures.past.ctx.store
    for event in store.ledger.events(side.release.app, LIVE, kinds=["pushed"], newest_first=True):
        if event.body.get("code") == side.release.code and len(str(event.body.get("mark"))) >= 40:
            try:
                return repository.commit(str(event.body["mark"]))
            except NotFound:
                break
    file = mixtures.past.ctx.home / mixtures.past.ctx.file.name
    said = repository.run("rev-list", f"--max-count={_COMMITS}", "HEAD", "--", f":/{repository.prefix}", may_fail=True)
    for commit in said.split():
        try:
            if of_commit(store, repository, commit, file).code == side.release.code:
                return commit
        except StaytrueError:
            continue
    return None


def _only(repository: Repository, commit: str) -> Culprit:
    return _named(repository, commit, of=1, asked=0, trainings=0)


def _named(repository: Repository, commit: str, *, of: int, asked: int, trainings: int) -> Culprit:
    subject = repository.subject(commit)
    how = "the only one that can change an answer" if of == 1 else f"found among {of} by asking {asked}"
    sentence = f"It came with commit {commit[:8]} ({subject[:80]}), {how}."
    facts = {"commits": of, "asked": asked}
    return Culprit(axis="code", kind="commit", name=commit, sentence=sentence, trainings=trainings, facts=facts)


def _past_of(past: Past, table: Table) -> Past:
    """The ticks of another version of the table."""
    ticks = [Tick(i, part, part.until + past.spec.label_after) for i, part in enumerate(table.parts)]
    return Past(ctx=past.ctx, table=table, spec=past.spec, ticks=ticks, first=0, until=len(ticks))


def _strange(  # noqa: PLR0917 - two stretches of rows, and who answers them
    name: str, past: Past, new: Sequence[int], today: Past, now: Sequence[int], served: Trained
) -> dict[str, tuple[float, float]]:
    """Value -> its mean loss in the new rows and in today's, the worst first, where it grew as that of other values did not."""
    sides = []
    for whose, ticks in ((past, new), (today, now)):
        filled = [t for t in ticks if whose.rows(t, t + 1)]
        losses = np.concatenate([whose.losses(served, t) for t in filled])
        sides.append((np.concatenate([whose.segment(name, t) for t in filled]), losses))
    (kinds, losses), (kinds_now, losses_now) = sides
    grew: dict[str, tuple[float, float, float]] = {}
    for value in np.unique(kinds).tolist():
        there, here = losses[kinds == value], losses_now[kinds_now == value]
        if min(len(there), len(here)) >= _FEWEST and here.mean() > 0:
            grew[value] = (float(there.mean()), float(here.mean()), float(there.std() / np.sqrt(len(there))))
    if len(grew) < 2:
        return {}
    # The least that any value grew by is what the season does: most of the others may be wrong.
    usual = min(there / here for there, here, _ in grew.values())
    odd = {
        value: (there, here)
        for value, (there, here, error) in grew.items()
        if there > _BEYOND * usual * here and there - usual * here > max(_SURE * error, _MATTERS * losses_now.mean())
    }
    return dict(sorted(odd.items(), key=lambda one: -one[1][0]))


def _taken(theirs: Mapping[str, Any], ours: Mapping[str, Any], key: str) -> dict[str, Any]:
    made = {name: value for name, value in theirs.items() if name != key}
    return made | ({key: ours[key]} if key in ours else {})


def _value(params: Mapping[str, Any], key: str) -> str:
    return repr(params[key])[:40] if key in params else "nothing"


def _span(part: Part) -> str:
    days = (part.until - part.since).total_seconds() / 86400
    return f"{part.since:%Y-%m-%d}" if days >= 1 else f"{part.since:%Y-%m-%d %H:%M}"
