"""Report: what was lived in a drill, what was claimed of it, and what each decision was worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from place import Place, percentile

from staytrue.cli.feeder import Feeder
from staytrue.cli.screen import Screen
from staytrue.dashboard.chart import replay_chart
from staytrue.store.join import own_name
from staytrue.store.ledger import Event

__all__ = ["Claim", "Lived", "Report", "Worth", "compared", "worth"]

LIVE = "as lived"
_DECIDED = ("deployed", "promoted", "rejected", "retrain", "rolled_back", "refused", "shadow", "canary", "backtest")


@dataclass(frozen=True)
class Claim:
    """Something that has to hold, whether it does, and what shows it."""

    what: str
    holds: bool
    shown: str


@dataclass(frozen=True, kw_only=True)
class Lived:
    """What happened.

    Attributes:
        pushed_at, live_at: when the commits came, and when new code was champion; `until` without any.
        losses: of each row with a quote and a label that was known by the end, with its `day` and `release`.
        rows: that were there to be fetched, and that the loop's table holds.
        kept: of the predictions that were acknowledged, how many are in the log; the same of labels.
    """

    app: str
    unit: str
    promotes: bool
    since: datetime
    until: datetime
    pushed_at: datetime
    live_at: datetime
    events: Sequence[Event]
    losses: pd.DataFrame
    rows: tuple[int, int]
    asked: int
    failed: Sequence[str]
    astray: int
    stood_in: int
    took_s: float
    latency_s: tuple[float, float]
    answered: Counter[str]
    kept: tuple[int, int]
    labels: tuple[int, int]
    problems: Sequence[str]

    @classmethod
    def of(
        cls, place: Place, feeder: Feeder, *, since: datetime, until: datetime, pushed_at: datetime, took_s: float
    ) -> Lived:
        """What a drill leaves behind, while its server still runs."""
        stream, asker = place.stream, feeder.asker
        feeder.listen()
        played = stream.rows[(stream.rows[stream.time] >= since) & (stream.rows[stream.time] < until)]
        fetched = place.store.table(next(iter(_sources(place))), app=stream.name).to_pandas()
        fetched = fetched[fetched[stream.time] >= since]
        traffic = place.store.traffic(app=stream.name).to_pandas()
        key = own_name(stream.key)
        ids, quoted = set(traffic["id"]), {quote.id for quote in feeder.quotes.values()}
        labelled = set(traffic.loc[traffic["label"].notna() & traffic[key].notna(), key].astype(int))
        known = played[played[stream.time] < until - stream.label_after]
        told = set(known[stream.key]) & feeder.quotes.keys()
        return cls(
            app=stream.name,
            unit=stream.unit,
            promotes=stream.promotes,
            since=since,
            until=until,
            pushed_at=pushed_at,
            live_at=_live_at(place, pushed_at) or until,
            events=place.loop.events(),
            losses=_losses(place, feeder, known),
            rows=(len(played), len(fetched)),
            asked=len(asker.took_s),
            failed=asker.failed,
            astray=feeder.astray,
            stood_in=feeder.stood_in,
            took_s=took_s,
            latency_s=(percentile(asker.took_s, 0.5), percentile(asker.took_s, 0.99)),
            answered=asker.answered,
            kept=(len(quoted), len(quoted & ids)),
            labels=(len(told), len(told & labelled)),
            problems=place.store.ledger.verify(),
        )

    def count(self, kind: str) -> int:
        """Events of that kind."""
        return sum(event.kind == kind for event in self.events)

    @property
    def ticks(self) -> int:
        """Days that were lived through."""
        return (self.until - self.since).days

    def claims(self) -> Iterator[Claim]:
        """What holds of every drill."""
        yield Claim("new rows are fetched, all of them", self.rows[0] == self.rows[1], f"{self.rows[1]:,} rows")
        yield Claim(
            "no request fails",
            not self.failed,
            f"{self.asked:,} requests, {len(self.failed)} failed {self.failed[:2] or ''}",
        )
        by_others = f"{self.astray} were not; {self.stood_in} by the champion in a challenger's place"
        yield Claim("each row is answered by whom the roles say", not self.astray, by_others)
        yield Claim("a retraining is decided, and says why", self.count("retrain") > 0, _first(self.events, "retrain"))
        if self.promotes:
            yield self._promoted()
        yield Claim("a challenger is rejected", self.count("rejected") > 0, _first(self.events, "rejected"))
        decided = [event for event in self.events if event.kind in _DECIDED]
        yield Claim(
            "every decision is explained in the log",
            all(e.sentence and e.body for e in decided),
            f"{len(decided)} decisions",
        )
        yield Claim(
            "what was acknowledged is kept: predictions",
            self.kept[0] == self.kept[1],
            f"{self.kept[1]:,} of {self.kept[0]:,}",
        )
        yield Claim(
            "what was acknowledged is kept: labels",
            self.labels[0] == self.labels[1],
            f"{self.labels[1]:,} of {self.labels[0]:,} joined",
        )
        yield Claim("the chain of the ledger holds", not self.problems, "; ".join(self.problems) or "verified")

    def _promoted(self) -> Claim:
        promoted = [event for event in self.events if event.kind == "promoted"]
        through = [event for event in promoted if self._stages(event.body["release"]) >= {"shadow", "canary"}]
        return Claim("a challenger is promoted through shadow and canary", bool(through), _first(through, "promoted"))

    def _stages(self, release: str) -> set[str]:
        return {event.kind for event in self.events if event.body.get("release") == release}


def _live_at(place: Place, pushed_at: datetime) -> datetime | None:
    """When a release of new code was promoted."""
    pushed = [event for event in place.loop.events() if event.kind == "pushed"]
    after = pushed[-1].seq if pushed else 0
    entered = [
        e.body.get("release") for e in place.loop.events(after) if e.kind == "backtest" and e.body.get("release")
    ]
    found = [e.at for e in place.loop.events(after) if e.kind == "promoted" and e.body.get("release") in entered]
    return max(found[0], pushed_at) if pushed and found else None


def _sources(place: Place) -> set[str]:
    return {ref.name for ref in place.store.ledger.refs(place.stream.name, "source")}


def _first(events: Sequence[Event], kind: str) -> str:
    return next((f"{event.at:%Y-%m-%d} {event.sentence}" for event in events if event.kind == kind), "none was")


def _losses(place: Place, feeder: Feeder, known: pd.DataFrame) -> pd.DataFrame:
    stream = place.stream
    known = known[known[stream.key].isin(feeder.quotes.keys())]
    quotes = [feeder.quotes[key] for key in known[stream.key]]
    answers, labels = np.array([quote.answer for quote in quotes], float), known[stream.label].to_numpy(float)
    lost = np.abs(answers - labels) if stream.unit == "euros" else (answers != labels).astype(float)
    return pd.DataFrame({"day": known[stream.time].dt.floor("D"), "loss": lost, "release": [q.release for q in quotes]})


# ---------------------------------------------------------------- against a replay


def compared(lived: Lived, replayed: Mapping[str, Any]) -> Iterator[Claim]:
    """The live loop's decisions before the commits, against those of a replay of the same days."""
    live = [
        (event.at.isoformat(), event.kind, event.sentence, event.body.get("release"))
        for event in lived.events
        if event.body.get("policy") == "payback" and event.at <= lived.pushed_at
    ]
    told = [(e["at"], e["kind"], e["sentence"], e["release"]) for e in replayed["timeline"] if e["kind"] != "looked"]
    # What was decided on the day of the commits, after them, is no part of it.
    same = live[: len(told)] == told and len(live) >= len(told)
    other = next(
        (f"live {a}, replayed {b}" for a, b in zip(live, told, strict=False) if a != b), f"{len(live)}, {len(told)}"
    )
    yield Claim("the decisions equal those of a replay", same, f"{len(told)} decisions" if same else other)
    trained = replayed["policies"][0]["trained"]
    yield Claim("which trains nothing that was not trained live", trained == 0, f"{trained} trained")


@dataclass(frozen=True, kw_only=True)
class Worth:
    """One way to have lived the same days.

    Attributes:
        before, tried, live: the mean loss a row before the commits, while they were tried, and once the new code was live.
        total: of all rows together.
    """

    name: str
    before: float
    tried: float
    live: float
    total: float
    rows: int


def worth(lived: Lived, others: Mapping[str, Any]) -> list[Worth]:
    """What was lived, and each of its alternatives."""
    weekly = {LIVE: _weekly(lived)} | {p["policy"]: p["weekly"] for p in others["policies"]}
    names = {LIVE: LIVE, "payback": "without the commit", "never": "never retrained"}
    return [_worth(lived, names[name], weeks) for name, weeks in weekly.items()]


def _worth(lived: Lived, name: str, weeks: Sequence[Sequence[Any]]) -> Worth:
    pushed, live = _week_after(lived.pushed_at), _week_after(lived.live_at)

    def mean(chosen: Sequence[Sequence[Any]]) -> float:
        rows = sum(row for _, row, _ in chosen)
        return sum(row * loss for _, row, loss in chosen) / rows if rows else float("nan")

    return Worth(
        name=name,
        before=mean([week for week in weeks if week[0] < pushed]),
        tried=mean([week for week in weeks if pushed <= week[0] < live]),
        live=mean([week for week in weeks if week[0] >= live]),
        total=sum(row * loss for _, row, loss in weeks),
        rows=sum(row for _, row, _ in weeks),
    )


def _week_after(moment: datetime) -> str:
    """The monday on which the first whole week from then on begins."""
    return (moment + timedelta(days=-moment.weekday() % 7)).date().isoformat()


def _weekly(lived: Lived) -> list[list[Any]]:
    """[monday, rows, mean loss] of every week, as a replay tells it."""
    days = lived.losses["day"].dt.tz_localize(None)
    mondays = (days - pd.to_timedelta(days.dt.dayofweek, unit="D")).dt.date.map(lambda day: day.isoformat())
    return [[monday, len(x), round(float(x.mean()), 6)] for monday, x in lived.losses["loss"].groupby(mondays)]


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a drill."""

    lived: Lived
    others: Mapping[str, Any]
    claims: Sequence[Claim]
    worth: Sequence[Worth]

    @property
    def good(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def show(self, screen: Screen) -> None:
        """For a person."""
        lived = self.lived
        screen.say(f"\nWhat each was worth ({lived.unit} a row)\n", style="bold")
        best = self.worth[0]
        cells = [
            [one.name, *("" if isnan(x) else f"{x:.3g}" for x in (one.before, one.tried, one.live, one.total / one.rows)),
             f"{one.total:,.0f}", f"{one.total - best.total:+,.0f}" if one is not best else ""]
            for one in self.worth
        ]  # fmt: skip
        columns = ["", "before the commits", "in their trial", "new code live", "all", f"{lived.unit} in all", "more"]
        screen.table(columns, cells, right=columns[1:])
        figures = {
            "ticks": f"{lived.ticks}", "requests": f"{lived.asked:,}", "failed": f"{len(lived.failed)}",
            "promoted": f"{lived.count('promoted')}", "rejected": f"{lived.count('rejected')}",
            "refused": f"{lived.count('refused')}", "p50 ms": f"{1000 * lived.latency_s[0]:.1f}",
            "p99 ms": f"{1000 * lived.latency_s[1]:.1f}", "seconds": f"{lived.took_s:.0f}",
            "s a day": f"{lived.took_s / max(lived.ticks, 1):.2f}",
        }  # fmt: skip
        screen.say()
        screen.table(list(figures), [list(figures.values())], right=list(figures))
        screen.say("\nClaims\n", style="bold")
        for claim in self.claims:
            mark, style = ("holds ", "green") if claim.holds else ("BROKEN", "bold red")
            screen.say(f"  {mark} {claim.what}: {claim.shown}", style=style)

    def picture(self) -> str:
        """Weekly losses as SVG: as lived, without the commit, never retrained; and what happened when."""
        weeks, lived = _weekly(self.lived), self.lived
        live = {
            "policy": LIVE,
            "loss": round(float(lived.losses["loss"].mean()), 6) if len(lived.losses) else None,
            "cost": float(lived.losses["loss"].sum()),
            "retrains": lived.count("retrain"),
            "weekly": weeks,
        }
        names = {"payback": "no commit", "never": "never"}
        policies = [live, *({**p, "policy": names[p["policy"]]} for p in self.others["policies"])]
        timeline = [
            {"at": event.at.isoformat(), "policy": LIVE, "kind": event.kind, "sentence": event.sentence}
            for event in lived.events
            if event.kind in {"pushed", "refused"} or event.body.get("policy")
        ]
        return replay_chart({**self.others, "policies": policies, "timeline": timeline, "rows": len(lived.losses)})
