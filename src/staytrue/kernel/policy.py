"""When to retrain: pure functions from what is known now to what to do now, and why.

A policy never sees a label before its time, a clock or a file: so the same function decides live and in a replay of last March.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.duration import duration, spell
from staytrue.kernel.schedule import Schedule, cron, quiet

__all__ = ["Decision", "Freshness", "Known", "Policy", "Settings", "decide", "policy", "variant"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now, and why: `numbers` are what the sentence was made from."""

    retrain: bool
    why: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """What the champion loses when fresh, and what it has lost beyond that: the books that `payback` keeps.

    The baseline is the mean loss over the first `warm` rows that a champion answered (its trial included, where it was a
    challenger then). After that, the loss of every tick beyond the baseline plus one standard error is added up; the sum never
    falls below 0, so good days are no credit against bad ones long after.
    """

    warm: int = 600
    rows: int = 0
    total: float = 0.0
    squares: float = 0.0
    excess: float = 0.0

    @property
    def loss(self) -> float | None:
        """Mean loss a row when fresh; None before a row was seen."""
        return self.total / self.rows if self.rows else None

    @property
    def bar(self) -> float | None:
        """The loss beyond which a row counts as excess: fresh loss plus one standard error of it."""
        if self.rows < 2:
            return None
        mean = self.total / self.rows
        spread = max(self.squares / self.rows - mean * mean, 0.0)
        return mean + float(np.sqrt(spread / self.rows))

    def seen(self, losses: np.ndarray) -> Freshness:
        """The books after one more tick of the champion's losses, (n,), oldest first.

        Example:
            >>> books = Freshness(warm=2).seen(np.array([1.0, 1.0])).seen(np.array([3.0]))
            >>> books.excess
            2.0
        """
        if self.rows < self.warm:
            return replace(
                self,
                rows=self.rows + len(losses),
                total=self.total + float(losses.sum()),
                squares=self.squares + float((losses**2).sum()),
            )
        bar = self.bar
        over = float(losses.sum()) - len(losses) * (bar if bar is not None else 0.0)
        return replace(self, excess=max(0.0, self.excess + over))

    def settled(self, losses: np.ndarray) -> Freshness:
        """The books after a retraining that brought nothing better: what the champion loses now is as good as fresh."""
        fresh = Freshness(warm=self.warm).seen(losses)
        return fresh if (fresh.loss or 0.0) > (self.loss or 0.0) else replace(self, excess=0.0)


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that a retraining policy may look at."""

    now: datetime
    trained_at: datetime
    """When the last retraining was decided (or the first training ran)."""
    rows_trained: int
    """Rows that the champion was trained on."""
    rows_since: int
    """Labelled rows that came after them."""
    freshness: Freshness
    retrain_cost: float
    """The price of one retraining, in rows' worth of fresh loss."""
    alarms: tuple[str, ...] = ()
    """Kinds of the alarms that stand open: `harm`, `shift`, `fault`, `system`, `silence`."""


Policy = Callable[[Known], Decision]


def _never(_: Known) -> Decision:
    return Decision(retrain=False, why="the policy is never to retrain")


def _every(span: timedelta) -> Policy:
    def every(known: Known) -> Decision:
        age = known.now - known.trained_at
        word = "is over" if age >= span else "is not over"
        return Decision(
            retrain=age >= span,
            why=f"{spell(span)} {word}: the last training was {age / timedelta(days=1):.1f} days ago",
            numbers={"age_days": round(age / timedelta(days=1), 3), "every_days": span / timedelta(days=1)},
        )

    return every


def _cron(schedule: Schedule, place: str) -> Policy:
    def scheduled(known: Known) -> Decision:
        due, coming = schedule.last(known.now), schedule.next(known.now)
        overdue = due is not None and due > known.trained_at
        at, word = (due, "was due at") if overdue else (coming, "is due next at")
        return Decision(
            retrain=overdue,
            why=f"the schedule {schedule.text} ({place}) {word} {_wall(at, schedule)}",
            numbers={"due": due.isoformat() if due else None, "next": coming.isoformat() if coming else None},
        )

    return scheduled


def _wall(at: datetime | None, schedule: Schedule) -> str:
    return f"{at.astimezone(schedule.zone):%Y-%m-%d %H:%M %Z}" if at else "no time at all"


def _rows(count: int | None, share: float | None) -> Policy:
    def rows(known: Known) -> Decision:
        needed = count if count is not None else max(1, int(np.ceil((share or 0.0) * known.rows_trained)))
        return Decision(
            retrain=known.rows_since >= needed,
            why=f"{known.rows_since} labelled rows came since the last training; {needed} are asked for",
            numbers={"rows_since": known.rows_since, "rows_needed": needed},
        )

    return rows


def _alarm(known: Known) -> Decision:
    harm = "harm" in known.alarms
    return Decision(retrain=harm, why="a harm alarm stands open" if harm else "no harm alarm stands open")


def _payback(known: Known) -> Decision:
    """Retrain when the errors beyond what the champion made when fresh have paid for one retraining (ski rental)."""
    books = known.freshness
    if books.loss is None or books.rows < books.warm:
        return Decision(
            retrain=False,
            why=f"the champion is fresh: {books.rows} of {books.warm} rows seen that say what fresh means",
            numbers={"rows": books.rows, "warm": books.warm},
        )
    price = known.retrain_cost * books.loss
    paid = books.excess >= price > 0
    return Decision(
        retrain=paid,
        why=f"excess loss {books.excess:,.4g} {'>=' if paid else '<'} price {price:,.4g} of one retraining",
        numbers={"excess": round(books.excess, 6), "price": round(price, 6), "fresh_loss": round(books.loss, 6)},
    )


_ROWS = re.compile(r"rows:(\d+)(?:(%)|)")
_CRON = re.compile(r"cron:\s*(@[a-z]+|[^@]+)(?:@(.*))?")


def policy(spec: str) -> Policy:
    """The retraining policy that `spec` names.

    `never`, `every:7d`, `cron:0 3 * * 1`, `cron:0 3 * * 1@Europe/Berlin`, `rows:500`, `rows:10%`, `alarm`, `payback`.

    Raises:
        InvalidInput: ST104, no such policy; ST850, ST851, a schedule that can't be read.

    Example:
        >>> policy("rows:10%").__name__
        'rows'
    """
    plain: dict[str, Policy] = {"never": _never, "alarm": _alarm, "payback": _payback}
    if spec in plain:
        return plain[spec]
    if spec.startswith("every:"):
        span = duration(spec.removeprefix("every:"), what=f"the policy {spec!r}")
        if span > timedelta(0):
            return _every(span)
    scheduled = _CRON.fullmatch(spec)
    if scheduled:
        place = "UTC" if scheduled[2] is None else scheduled[2].strip()
        return _cron(cron(scheduled[1], place), place)
    found = _ROWS.fullmatch(spec)
    if found and int(found[1]) > 0:
        return _rows(None, int(found[1]) / 100) if found[2] else _rows(int(found[1]), None)
    raise InvalidInput(
        "ST104",
        f"Can't read the retraining policy {spec!r}: expected never, every:7d, cron:0 3 * * 1, rows:500, rows:10%, alarm, "
        "payback or your own function.",
        got=spec,
    )


_OVERRIDE = re.compile(r"(.*\S)\s+([a-z_]+)=(\S+)")


def variant(spec: str, settings: Settings) -> tuple[str, Settings]:
    """A policy's spec and the settings it is to be lived with: `payback window=90d restore=false` differs in two of them.

    Raises:
        InvalidInput: ST804, no setting of that name, or a value that it can't have; ST106, a value out of its range.

    Example:
        >>> name, changed = variant("every:7d window=90d", Settings())
        >>> name, changed.window
        ('every:7d', '90d')
    """
    changes: dict[str, Any] = {}
    while found := _OVERRIDE.fullmatch(spec):
        spec, name, text = found.groups()
        changes.setdefault(name, _read(name, text))
    return spec, replace(settings, **changes).checked() if changes else settings


def _read(name: str, text: str) -> Any:
    if name not in Settings.__dataclass_fields__ or name == "retrain":
        known = ", ".join(sorted(set(Settings.__dataclass_fields__) - {"retrain"}))
        raise InvalidInput("ST804", f"Can't set {name}={text} for a policy: expected one of {known}.", setting=name)
    kind = Settings.__dataclass_fields__[name].type
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "str" or name == "approve_default":
            return text
        return float(text) if kind == "float" else int(text)
    except (KeyError, ValueError) as exc:
        raise InvalidInput("ST804", f"Can't read {name}={text!r}: expected {kind}.", setting=name) from exc


def decide(chosen: Policy, known: Known, *, name: str) -> Decision:
    """What `chosen` says of `known`, checked: a user's function may answer anything.

    Raises:
        InvalidInput: ST105, it raised, or gave neither a Decision nor a bool.
    """
    try:
        answer = chosen(known)
    except Exception as exc:
        raise InvalidInput(
            "ST105", f"The retraining policy {name} raised {type(exc).__name__}: {exc}.", policy=name
        ) from exc
    if isinstance(answer, Decision):
        return answer
    if isinstance(answer, bool | np.bool_):
        return Decision(retrain=bool(answer), why=f"{name} said {'yes' if answer else 'no'}")
    raise InvalidInput(
        "ST105",
        f"The retraining policy {name} gave {answer!r} ({type(answer).__name__}); expected True, False or a Decision.",
        policy=name,
    )


# ---------------------------------------------------------------- what an app decides


Approval = Literal["reject", "promote"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keyword settings of `app.policy(...)`, with the defaults that replay found best (ARCHITECTURE.md, decisions)."""

    retrain: str = "payback"
    retrain_cost: float = 200.0
    """Price of one retraining, in rows' worth of the champion's fresh loss."""
    window: str = "all"
    """Rows to train on: `all`, a span such as `90d`, or `auto` (what did best on the newest labelled rows)."""
    trial: str = "backtest, shadow:200, canary:5%:25%"
    holdout: int = 600
    """Newest rows that the backtest keeps away from the challenger; at most half of what came since the champion's training."""
    alpha: float = 0.01
    """Chance of a wrong promotion or rollback over the app's whole life."""
    false_alarms: float = 0.05
    """Chance of any false alarm in a year in which nothing is wrong, all columns and segments together."""
    margin: float = 0.02
    """How much worse still counts as not worse, as a share of the champion's loss."""
    trial_days: float = 42.0
    trial_rows: int = 4000
    """A trial without a verdict after so many days or live rows is over, and the champion stays."""
    watch_rows: int = 1000
    """So many rows after a promotion the old champion goes on answering beside the new one, and rollback stays armed."""
    cooldown: str = "1d"
    """Shortest time between two retrainings; doubles with each trial in a row that brought no promotion."""
    budget: int = 24
    """Most retrainings a day."""
    quiet: str = ""
    """Hours in which no retraining is begun, such as `22:00-06:00@Europe/Berlin`; empty: none."""
    approve: bool = False
    """A person has to say `staytrue promote` before a challenger that passed its trial becomes champion."""
    approve_within: str = "3d"
    """So long is waited for the person, then `approve_default` is done."""
    approve_default: Approval = "reject"
    restore: bool = True
    """When the champion has become worse, champions of before are looked at first: one that is right again costs no training."""
    blame: int = 0
    """Most trainings that the loop spends by itself on finding out what is to blame when harm is done; 0: it does not ask."""
    requests: int = 500
    """Newest logged requests that new code has to answer as the old code did, before it goes on trial."""
    timeout: str = "1h"
    """Deadline of one training."""
    memory_mb: int | None = None
    """Memory limit of one training."""
    log: float = 1.0
    """Share of the micro-batches that are logged when nobody is on trial; a logged row counts for 1 / log rows."""
    durable: bool = False
    """Answer only when the prediction is on disk. Without it a power cut may take those of the last 50 ms."""

    def checked(self) -> Settings:
        """These settings, or the first thing that is wrong with them.

        Raises:
            InvalidInput: ST106, naming setting, value and what was expected.
        """
        policy(self.retrain)
        if self.window not in ("all", "auto"):
            duration(self.window, what="window")
        for name in ("cooldown", "timeout", "approve_within"):
            duration(getattr(self, name), what=name)
        if self.quiet:
            quiet(self.quiet)
        for name in ("durable", "approve", "restore"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if self.approve_default not in get_args(Approval):
            raise _bad("approve_default", self.approve_default, " or ".join(map(repr, get_args(Approval))))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise _bad(name, value, f"a number from {low:g} to {high:g}")
        return self


def _bad(name: str, value: object, expected: str) -> InvalidInput:
    return InvalidInput("ST106", f"app.policy({name}={value!r}): expected {expected}.", setting=name)


_RANGES = (
    ("retrain_cost", 0.0, 1e12),
    ("holdout", 20, 10_000_000),
    ("alpha", 1e-9, 0.5),
    ("margin", 0.0, 1.0),
    ("false_alarms", 1e-6, 0.5),
    ("trial_days", 0.0, 3650.0),
    ("trial_rows", 1, 10**12),
    ("watch_rows", 0, 10**12),
    ("budget", 1, 10_000),
    ("blame", 0, 1000),
    ("requests", 0, 1_000_000),
    ("log", 0.0, 1.0),
)
