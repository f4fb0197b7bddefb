"""Inspect: the champion of a life looks at each part with labels before anything is trained on it.

What it finds mislabelled (`kernel/poison.py`) is held: a part as a whole, or the rows of a group from some part on. Nothing is
taken out of the table. It is a life's own judgement, of its own champion, so a training asks the inspector of its life which
rows to leave out; a replay of the same ticks finds the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.poison import (
    FEWEST_ROWS,
    MOST_HELD,
    Agreement,
    Experience,
    Finding,
    Suspicion,
    agreement,
    judge_groups,
    judge_part,
    key_prefix,
    key_prefixes,
    skill,
)
from staytrue.kernel.release import Digest
from staytrue.loop.past import Past
from staytrue.loop.quarantine import DATA
from staytrue.loop.train import Trained
from staytrue.store import frames, tables
from staytrue.store.frames import Rows
from staytrue.store.ledger import Ledger
from staytrue.store.objects import LocalObjects, digest
from staytrue.store.tables import Part, Table

__all__ = ["Group", "Held", "Inspector", "Told", "trusted"]

_SHUFFLES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that have something in common: a column whose text begins with (`prefix`) or is (`value`) what is named."""

    column: str
    text: str
    by: Literal["prefix", "value"]

    @property
    def name(self) -> str:
        """For people, and one to one: `id=bot-*` or `city=porto`."""
        return f"{self.column}={self.text}{'*' if self.by == 'prefix' else ''}"

    def rows(self, rows: Rows) -> NDArray[np.bool_]:
        """(n,) which rows are in it."""
        if self.column not in rows.column_names:
            return np.zeros(rows.num_rows, np.bool_)
        column = frames.column(rows, self.column)
        texts = [key_prefix(v) if self.by == "prefix" else str(v) for v in column.values.tolist()]
        return column.valid & np.array([text == self.text for text in texts], np.bool_)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What no training sees: the part that begins at `since`; or from there on, to before `until`, the rows of a group.

    `content` and `unlabelled` are those of the part that was looked at: once its rows were corrected, it is another one.
    """

    id: Digest
    since: datetime
    content: Digest
    unlabelled: int
    until: datetime | None = None
    group: Group | None = None
    finding: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON; `from_document` reads it."""
        group = self.group and {"column": self.group.column, "text": self.group.text, "by": self.group.by}
        return {
            "id": self.id,
            "since": self.since.isoformat(),
            "content": f"rows:{self.content}",
            "unlabelled": self.unlabelled,
            "until": self.until and self.until.isoformat(),
            "group": group,
            "finding": dict(self.finding),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Held:
        """What `document` came from."""
        return cls(
            id=Digest(document["id"]),
            since=datetime.fromisoformat(document["since"]),
            content=Digest(document["content"].removeprefix("rows:")),
            unlabelled=document["unlabelled"],
            until=datetime.fromisoformat(document["until"]) if document["until"] else None,
            group=Group(**document["group"]) if document["group"] else None,
            finding=document["finding"],
        )

    def is_of(self, part: Part) -> bool:
        """Whether it holds this part; not when its rows were corrected since. Labels that only came later change nothing."""
        same = part.content == self.content or part.unlabelled < self.unlabelled
        return self.group is None and part.since == self.since and same


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an inspection has to say: rows that are `held`, rows that are `let_go`, or a `suspect` that only people hear of."""

    kind: Literal["held", "let_go", "suspect"]
    sentence: str
    held: Held | None = None
    finding: Mapping[str, Any] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """For the event's evidence."""
        held = self.held
        named = (
            {"held": held.id, "since": held.since.isoformat(), "group": held.group and held.group.name} if held else {}
        )
        return {**named, **self.finding}


@dataclass
class Inspector:
    """What one life's champions found in the labels, part by part."""

    experience: Experience = field(default_factory=Experience)
    suspicions: dict[str, Suspicion] = field(default_factory=dict)
    groups: dict[str, Held] = field(default_factory=dict)
    """Groups that are held now, by name."""
    over: list[Held] = field(default_factory=list)
    """Groups that were held for a while: these rows stay out."""
    parts: list[Held] = field(default_factory=list)
    """Parts that are held, oldest first."""
    run: list[Held] = field(default_factory=list)
    """Those of them that came last, one after the other."""
    run_seen: list[tuple[float, float]] = field(default_factory=list)
    known: dict[str, Group] = field(default_factory=dict)
    """Group by name, for those under suspicion."""
    inspected: datetime | None = None
    """Parts that begin up to here were looked at."""

    # ------------------------------------------------------------ looking

    def inspect(self, past: Past, champion: Trained, tick: int) -> list[Told]:
        """Look at a part whose labels are known, and say what is new. A part that was looked at says nothing again.

        Args:
            champion: its answers to the tick are at hand, and it was not trained on it.

        Raises:
            StaytrueError: what the champion's answer raised, or what is wrong with its losses.
        """
        part = past.ticks[tick].part
        if self.inspected is not None and part.since <= self.inspected:
            return []
        losses = past.losses(champion, tick)
        self.inspected = part.since
        if not len(losses):
            return []
        agreed = _agreement(past, champion, tick, losses)
        groups, self.known = _groups(past, tick, self.known)
        # Rows that are held already say nothing about the rest.
        rest = ~np.any(
            [np.zeros(len(losses), np.bool_), *(m for name, m in groups.items() if name in self.groups)], axis=0
        )
        told = self._of_part(part, losses[rest], agreed.at(rest) if agreed else None)
        return told + self._of_groups(part, losses, agreed, groups)

    def _of_part(self, part: Part, losses: np.ndarray, agreed: Agreement | None) -> list[Told]:
        if not len(losses):
            return []
        finding = judge_part(self.experience, losses, agreed)
        seen = (float(losses.mean()), float(agreed.rows.mean()) if agreed else 0.0)
        if finding.verdict == "quarantine":
            held = _held(part, finding)
            if len(self.run) < MOST_HELD:
                self.parts.append(held)
                self.run.append(held)
                self.run_seen.append(seen)
                return [Told(kind="held", sentence=_said(held, finding), held=held, finding=finding.document())]
            return [self._let_go(part, seen)]
        self.run, self.run_seen = [], []
        if len(losses) >= FEWEST_ROWS:
            self.experience = self.experience.after(*seen)
        if finding.verdict == "suspect":
            sentence = f"The labels of {part.since:%Y-%m-%d %H:%M} may be wrong: {finding.why}. They are trained on."
            return [Told(kind="suspect", sentence=sentence, finding=finding.document())]
        return []

    def _let_go(self, part: Part, seen: tuple[float, float]) -> Told:
        """One more of the same: drift. What it looks like is what is usual from now on."""
        first, count, ids = self.run[0], len(self.run) + 1, [held.id for held in self.run]
        self.parts = [held for held in self.parts if held not in self.run]
        self.experience = Experience()
        for loss, agreed in [*self.run_seen, seen]:
            self.experience = self.experience.after(loss, agreed)
        self.run, self.run_seen = [], []
        sentence = (
            f"{count} parts in a row, {first.since:%Y-%m-%d} to {part.since:%Y-%m-%d}, look the same: not the labels are wrong, "
            "the world has changed. They are trained on."
        )
        return Told(kind="let_go", sentence=sentence, held=first, finding={"parts": count, "let_go": ids})

    def _of_groups(
        self, part: Part, losses: np.ndarray, agreed: Agreement | None, groups: Mapping[str, NDArray[np.bool_]]
    ) -> list[Told]:
        self.suspicions, found = judge_groups(self.suspicions, losses, agreed, groups, part.since.isoformat())
        self.known = {name: group for name, group in self.known.items() if name in self.suspicions}
        told = [self._back_to_usual(name, part) for name in sorted(self.groups) if self._is_usual(name)]
        for finding in found:
            name = str(finding.group)
            if finding.verdict == "quarantine" and name not in self.groups:
                since = datetime.fromisoformat(self.suspicions[name].since)
                group = self.known[name]
                held = replace(_held(part, finding, group), since=since)
                self.groups[name] = held
                told.append(Told(kind="held", sentence=_said(held, finding), held=held, finding=finding.document()))
                told += self._explained(held)
        return told

    def _explained(self, group: Held) -> list[Told]:
        """Let go parts in which some labels were wrong, now that it is known which."""
        some = [held for held in self.parts if held.since >= group.since and held.finding["agreed"] > 0]
        if not some or group.group is None:
            return []
        self.parts = [held for held in self.parts if held not in some]
        if any(held in some for held in self.run):
            self.run, self.run_seen = [], []
        sentence = "The part {:%Y-%m-%d %H:%M} is trained on after all, without the rows of {}."
        return [Told(kind="let_go", sentence=sentence.format(held.since, group.group.name), held=held) for held in some]

    def _is_usual(self, name: str) -> bool:
        suspicion = self.suspicions.get(name)
        return suspicion is not None and suspicion.wealth <= 0

    def _back_to_usual(self, name: str, part: Part) -> Told:
        held = replace(self.groups.pop(name), until=part.since)
        self.over.append(held)
        sentence = (
            f"The labels of {name} look right again: rows from {part.since:%Y-%m-%d} on are trained on, those from "
            f"{held.since:%Y-%m-%d} until then are not."
        )
        return Told(kind="let_go", sentence=sentence, held=held)

    # ------------------------------------------------------------ training

    def holds(self, part: Part) -> bool:
        """Whether a part is held as a whole: what anybody loses on it says nothing about who is better."""
        return any(held.is_of(part) for held in self.parts)

    def training_table(
        self, objects: LocalObjects, spec: SourceSpec, table: Table, *, trust: Collection[str] = ()
    ) -> Table:
        """The table without what is held: the same one, when that is nothing.

        Args:
            trust: ids of what people let go (`trusted`).
        """
        parts = [held for held in self.parts if held.id not in trust]
        groups = [held for held in [*self.groups.values(), *self.over] if held.group and held.id not in trust]
        kept: list[Part] = []
        for part in table.parts:
            mine = [
                held for held in groups if held.since <= part.since and (held.until is None or part.since < held.until)
            ]
            if any(held.is_of(part) for held in parts):
                continue
            named = tuple(sorted({(g.column, g.text, g.by) for held in mine if (g := held.group)}))
            kept.append(_without(objects, part, spec, named) if named and part.rows else part)
        if kept == list(table.parts):
            return table
        made = replace(table, chunks=())
        for part in kept:
            made = tables.append(made, part)
        return made

    # ------------------------------------------------------------ keeping

    def document(self) -> dict[str, Any]:
        """All of it as JSON, for a life's memory; it grows only by what is held."""
        return {
            "experience": self.experience.document(),
            "suspicions": {name: one.document() for name, one in self.suspicions.items()},
            "known": {name: [g.column, g.text, g.by] for name, g in self.known.items()},
            "groups": [held.document() for held in self.groups.values()],
            "over": [held.document() for held in self.over],
            "parts": [held.document() for held in self.parts],
            "run": len(self.run),
            "run_seen": [list(seen) for seen in self.run_seen],
            "inspected": self.inspected and self.inspected.isoformat(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Inspector:
        """The inspector that `document` came from; of an empty document a new one."""
        if not document:
            return cls()
        parts = [Held.from_document(held) for held in document["parts"]]
        groups = [Held.from_document(held) for held in document["groups"]]
        return cls(
            experience=Experience.from_document(document["experience"]),
            suspicions={name: Suspicion.from_document(one) for name, one in document["suspicions"].items()},
            groups={held.group.name: held for held in groups if held.group},
            over=[Held.from_document(held) for held in document["over"]],
            parts=parts,
            run=parts[len(parts) - document["run"] :],
            run_seen=[(loss, agreed) for loss, agreed in document["run_seen"]],
            known={name: Group(column=c, text=t, by=by) for name, (c, t, by) in document["known"].items()},
            inspected=datetime.fromisoformat(document["inspected"]) if document["inspected"] else None,
        )


def trusted(ledger: Ledger, app: str) -> frozenset[str]:
    """Ids of what an inspector held and people let go: it is trained on, in every life."""
    return frozenset(str(event.body["held"]) for event in ledger.events(app, DATA, kinds=["trusted"]))


# ---------------------------------------------------------------- what is looked at


def _agreement(past: Past, champion: Trained, tick: int, losses: np.ndarray) -> Agreement | None:
    answers, labels = past.paired(champion, tick)
    found = agreement(answers, labels.tolist())
    if found is not None or len(losses) < FEWEST_ROWS or callable(past.ctx.app.metric):
        return found
    try:
        # What a label costs with the answers of others; by turning, so that the same rows give the same.
        turned = [past.ctx.metric.losses(answers[k:] + answers[:k], labels, None) for k in range(1, _SHUFFLES + 1)]
    except InvalidInput:
        return None
    return skill(losses, np.mean(turned, axis=0))


def _groups(past: Past, tick: int, known: Mapping[str, Group]) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Group]]:
    """Which labelled rows are in which group: by what the key begins with, and by the values of each segment."""
    masks: dict[str, NDArray[np.bool_]] = {}
    named: dict[str, Group] = dict(known)
    key = past.spec.key or ""
    begun = [group.text for group in known.values() if group.by == "prefix"]
    for text, mask in key_prefixes(past.keys(tick), begun).items():
        group = Group(column=key, text=text, by="prefix")
        masks[group.name], named[group.name] = mask, group
    for column in past.ctx.app.segments:
        values = past.segment(column, tick)
        for text in _often(values):
            group = Group(column=column, text=text, by="value")
            masks[group.name], named[group.name] = values == text, group
    return masks, named


def _often(values: np.ndarray, *, most: int = 32) -> Sequence[str]:
    found, counts = np.unique(values, return_counts=True)
    order = np.lexsort((found, -counts))[:most]
    return [str(found[i]) for i in order]


@lru_cache(maxsize=4096)
def _without(
    objects: LocalObjects, part: Part, spec: SourceSpec, groups: tuple[tuple[str, str, Literal["prefix", "value"]], ...]
) -> Part:
    """The part without the rows of these groups: a part of its own, made once."""
    rows = frames.read_parquet(objects.get(part.object))
    out = np.zeros(rows.num_rows, np.bool_)
    for column, text, by in groups:
        out |= Group(column=column, text=text, by=by).rows(rows)
    if not out.any():
        return part
    return tables.make_part(objects, frames.take(rows, ~out), (part.since, part.until), spec)


def _held(part: Part, finding: Finding, group: Group | None = None) -> Held:
    return Held(
        id=digest(canonical_json([part.since.isoformat(), f"rows:{part.content}", group and group.name])),
        since=part.since,
        content=part.content,
        unlabelled=part.unlabelled,
        group=group,
        finding=finding.document(),
    )


def _said(held: Held, finding: Finding) -> str:
    numbers = f"loss {finding.seen:.3g} a row against {finding.expected:.3g}"
    if held.group is None:
        return (
            f"The labels of {held.since:%Y-%m-%d %H:%M} look wrong: {finding.why} (agreement {finding.agreed:.2f}, usually "
            f"{finding.usual:.2f}), {numbers}. The {finding.rows} rows are not trained on."
        )
    return (
        f"The labels of {held.group.name} look wrong since {held.since:%Y-%m-%d}: {finding.why} (agreement {finding.agreed:.2f}, "
        f"{finding.usual:.2f} of all others), {numbers}, {finding.rows} rows or {finding.share:.1%}. They are not trained on."
    )
