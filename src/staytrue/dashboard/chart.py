"""Chart: a replay's document as one SVG picture. What each policy lost week by week, and what the first one did when.

It is text made on the server: no script, no web font, nothing to load, light or dark as the reader's system is. Each mark
says its event's sentence to whoever points at it or reads it aloud. Equal documents give equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from html import escape
from typing import Any

__all__ = ["replay_chart"]

_WIDTH = 900
_LEFT, _RIGHT = 96, 24
_LEGEND_TOP, _LEGEND_ROW, _LEGEND_COLUMNS = 86, 46, 4
_PLOT_HEIGHT = 250
_LANE_HEIGHT = 20
# Not strftime: the bytes would depend on the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MARK_WIDTH, _CROWDED_WIDTH = 8, 20
"""Marks nearer than this would cover each other: they become one, which says how many it stands for."""
_CROWD = 150
_MOST_POINTS = 220
"""A line has no more points than this; beyond it, neighbouring weeks are joined."""
_TOOLTIPS_CHARS = 10_000
"""All tooltips together; a picture in a README should stay small."""


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """A line of marks for one kind of event: what several and one of them are called, and their shape around a point."""

    kind: str
    name: str
    one: str
    style: str
    shape: str


_LANES = (
    _Lane(kind="promoted", name="promoted", one="promoted", style="good", shape="m0-5l5 9h-10z"),
    _Lane(kind="rolled_back", name="rolled back", one="rolled back", style="bad", shape="m0 5l5-9h-10z"),
    _Lane(kind="rejected", name="rejected", one="rejected", style="warn", shape="m-4-4l8 8m0-8l-8 8"),
    _Lane(kind="alarm", name="alarms", one="alarm", style="bad", shape="m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"),
    _Lane(kind="retrain", name="retrains", one="retrain", style="tick", shape="m0-5v10"),
    _Lane(kind="pushed", name="commits", one="commit", style="muted", shape="m0-5l5 5l-5 5l-5-5z"),
    _Lane(kind="refused", name="refused", one="refused", style="bad", shape="m0-5l5 5l-5 5l-5-5z"),
)

# Class -> declarations in light and in dark. Line colours differ in lightness and dash too, not in hue alone.
_COLOURS = {
    "paper": ("fill:#ffffff", "fill:#0d1117"),
    "text": ("fill:#1c2430", "fill:#e6edf3"),
    "muted": ("fill:#566171", "fill:#9dabba"),
    "grid": ("stroke:#e4e8ed", "stroke:#262d36"),
    "axis": ("stroke:#9aa4b1", "stroke:#56616e"),
    "p0": ("stroke:#0b5fd3", "stroke:#6cb2ff"),
    "p1": ("stroke:#c2570c", "stroke:#f5a35c"),
    "p2": ("stroke:#0c8577", "stroke:#45cfbd"),
    "p3": ("stroke:#9b36b7", "stroke:#d996f0"),
    "p4": ("stroke:#b3254d", "stroke:#f48aa8"),
    "never": ("stroke:#7d8896", "stroke:#8b97a5"),
    "good": ("fill:#178a3c", "fill:#4cc26b"),
    "bad": ("fill:#d1242f", "fill:#ff6b63"),
    "warn": ("stroke:#b26a00", "stroke:#e8ae3c"),
    "tick": ("stroke:#566171", "stroke:#9dabba"),
    "guide": ("stroke:#178a3c", "stroke:#4cc26b"),
}
_SHAPES = """\
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.title{font-size:17px;font-weight:600}.name{font-size:13px;font-weight:600}
.end{text-anchor:end}.middle{text-anchor:middle}
.line{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}
.p0{stroke-width:2.8}.p2{stroke-dasharray:6 3}.p3{stroke-dasharray:2 3}.p4{stroke-dasharray:8 3 2 3}
.grid,.axis{stroke-width:1}.guide{stroke-width:1;stroke-dasharray:2 4;opacity:.6}
.warn{fill:none;stroke-width:2.2;stroke-linecap:round}.tick{stroke-width:1.6}"""


def replay_chart(document: Mapping[str, Any]) -> str:
    """A replay as an SVG picture: a line for each policy, the first one bold, and its events below.

    Args:
        document: what `staytrue replay --json` prints.

    Returns:
        The file's text, 900 pixels wide; it ends with a line break. A policy without a labelled row has no line.

    Example:
        >>> week = ["2016-07-04", 10, 2.5]
        >>> policy = {"policy": "never", "loss": 2.5, "cost": 25.0, "retrains": 0, "weekly": [week]}
        >>> document = {"app": "rates", "since": "2016-07-04T00:00:00+00:00", "until": "2016-07-11T00:00:00+00:00",
        ...             "rows": 10, "policies": [policy], "timeline": []}
        >>> replay_chart(document).startswith("<svg xmlns=")
        True
    """
    policies = document["policies"]
    lines = {p["policy"]: _joined(p["weekly"]) for p in policies}
    first = policies[0]["policy"] if policies else ""
    lanes = _marks_by_lane([e for e in document["timeline"] if e["policy"] == first])
    plot = _Plot.around(document, lines, lanes)
    body = [
        *_heading(document, lines, first),
        *_legend(policies),
        *_axes(plot),
        *_lines(plot, lines),
        *_events(plot, lanes),
    ]
    return "\n".join([*_opening(document, plot.height), *body, "</svg>", ""])


# ---------------------------------------------------------------- where things are


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """From a moment and a loss to a place on the picture."""

    since: datetime
    until: datetime
    ticks: tuple[float, ...]
    """Losses that have a line across the plot; the plot goes from the first to the last of them."""
    top: float
    lanes: int

    @classmethod
    def around(cls, document: Mapping[str, Any], lines: Mapping[str, Sequence[_Point]], lanes: Sequence[Any]) -> _Plot:
        losses = [point.loss for line in lines.values() for point in line]
        rows = math.ceil(len(lines) / _LEGEND_COLUMNS)
        since = datetime.fromisoformat(document["since"])
        return cls(
            since=since,
            until=max(datetime.fromisoformat(document["until"]), since + timedelta(hours=1)),
            ticks=_round_numbers(min(losses, default=0.0), max(losses, default=1.0)),
            top=_LEGEND_TOP + rows * _LEGEND_ROW + 4,
            lanes=len(lanes),
        )

    @property
    def bottom(self) -> float:
        return self.top + _PLOT_HEIGHT

    @property
    def floor(self) -> float:
        """Below the last lane."""
        return self.bottom + 8 + self.lanes * _LANE_HEIGHT

    @property
    def height(self) -> int:
        return round(self.floor + 50)

    def x(self, moment: datetime) -> float:
        share = (moment - self.since) / (self.until - self.since)
        return _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.bottom - (loss - low) / (high - low) * _PLOT_HEIGHT


def _round_numbers(low: float, high: float) -> tuple[float, ...]:
    """Four to seven round numbers around both; from 0, unless that would leave most of the plot empty."""
    if low > 0 and low < high / 2:
        low = 0.0
    high = high if high > low else low + (abs(low) or 1.0)
    span = high - low
    raw = span / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * n for n in (1, 2, 2.5, 5, 10) if unit * n >= raw)
    begin = math.floor(low / step)
    end = max(math.ceil(high / step), begin + 1)
    return tuple(float(f"{n * step:.12g}") for n in range(begin, end + 1))


# ---------------------------------------------------------------- lines


@dataclass(frozen=True, kw_only=True)
class _Point:
    """The mean loss of the rows of one or more weeks."""

    since: date
    weeks: int
    loss: float

    @property
    def middle(self) -> datetime:
        return _midnight(self.since) + timedelta(days=3.5 * self.weeks)


def _joined(weekly: Sequence[Sequence[Any]]) -> list[_Point]:
    """The points of a line: one a week, or the row-weighted mean of several where there are too many."""
    weeks = math.ceil(len(weekly) / _MOST_POINTS) or 1
    points = []
    for start in range(0, len(weekly), weeks):
        chunk = weekly[start : start + weeks]
        rows = sum(row for _, row, _ in chunk)
        loss = sum(row * mean for _, row, mean in chunk) / rows
        points.append(_Point(since=date.fromisoformat(chunk[0][0]), weeks=weeks, loss=loss))
    return points


def _lines(plot: _Plot, lines: Mapping[str, Sequence[_Point]]) -> Iterator[str]:
    # The first policy is drawn last: it lies on top.
    for name, style in reversed(list(zip(lines, _styles(lines), strict=True))):
        if lines[name]:
            yield f'<path class="line {style}" d="{_path(plot, lines[name])}"><title>{_text(name)}</title></path>'


def _path(plot: _Plot, points: Sequence[_Point]) -> str:
    """Through all points; a gap of more than a point's own weeks breaks the line, since nothing is known of it."""
    steps = []
    last: _Point | None = None
    for point in points:
        near = last is not None and point.since - last.since <= timedelta(weeks=1.5 * point.weeks)
        place = f"{_n(plot.x(point.middle))} {_n(plot.y(point.loss))}"
        # `h0` makes a lone point a dot.
        steps.append(f"L{place}" if near else f"M{place}h0")
        last = point
    return "".join(steps)


def _styles(names: Iterable[str]) -> list[str]:
    """A class for each policy: the first bold, `never` grey, the others in turn."""
    styles, others = [], 0
    for position, name in enumerate(names):
        if position == 0:
            styles.append("p0")
        elif name == "never":
            styles.append("never")
        else:
            styles.append(f"p{1 + others % 4}")
            others += 1
    return styles


# ---------------------------------------------------------------- events


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """One event, or several too near to be told apart."""

    at: datetime
    sentences: tuple[str, ...]


def _marks_by_lane(events: Sequence[Mapping[str, Any]]) -> list[tuple[_Lane, list[Mapping[str, Any]]]]:
    found = [(lane, [e for e in events if e["kind"] == lane.kind]) for lane in _LANES]
    return [(lane, entries) for lane, entries in found if entries]


def _events(plot: _Plot, lanes: Sequence[tuple[_Lane, Sequence[Mapping[str, Any]]]]) -> Iterator[str]:
    apart = _MARK_WIDTH if sum(len(entries) for _, entries in lanes) <= _CROWD else _CROWDED_WIDTH
    each = [(lane, len(entries), _marks(plot, entries, apart)) for lane, entries in lanes]
    room = min(220, _TOOLTIPS_CHARS // max(1, sum(len(marks) for _, _, marks in each)))
    for position, (lane, count, marks) in enumerate(each):
        y = plot.bottom + 8 + (position + 0.5) * _LANE_HEIGHT
        name = lane.one if count == 1 else lane.name
        yield f'<text class="muted end" x="{_LEFT - 10}" y="{_n(y + 4)}">{count} {name}</text>'
        if lane.kind == "promoted":
            guides = "".join(f"M{_n(plot.x(mark.at))} {_n(plot.top)}V{_n(y - 6)}" for mark in marks)
            yield f'<path class="guide" d="{guides}"/>'
        for mark in marks:
            place = f"M{_n(plot.x(mark.at))} {_n(y)}{lane.shape}"
            yield f'<path class="{lane.style}" d="{place}"><title>{_tooltip(mark, room)}</title></path>'


def _marks(plot: _Plot, entries: Sequence[Mapping[str, Any]], apart: float) -> list[_Mark]:
    marks: list[_Mark] = []
    for entry in entries:
        at = datetime.fromisoformat(entry["at"])
        if marks and plot.x(at) - plot.x(marks[-1].at) < apart:
            marks[-1] = _Mark(at=marks[-1].at, sentences=(*marks[-1].sentences, entry["sentence"]))
        else:
            marks.append(_Mark(at=at, sentences=(entry["sentence"],)))
    return marks


def _tooltip(mark: _Mark, room: int) -> str:
    said = mark.sentences[0]
    said = said if len(said) <= room else f"{said[: max(room - 1, 0)].rstrip()}…"
    more = f" (and {len(mark.sentences) - 1} more)" if len(mark.sentences) > 1 else ""
    return _text(f"{mark.at.date().isoformat()} {said}{more}")


# ---------------------------------------------------------------- words and axes


def _opening(document: Mapping[str, Any], height: int) -> Iterator[str]:
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">'
    names = ", ".join(p["policy"] for p in document["policies"])
    yield f'<title id="title">{_text(document["app"])}: weekly loss under {_text(names)}</title>'
    light = "".join(f".{name}{{{light}}}" for name, (light, _) in _COLOURS.items())
    dark = "".join(f".{name}{{{dark}}}" for name, (_, dark) in _COLOURS.items())
    yield f"<style>\n{_SHAPES}\n{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n</style>"
    # A paper of its own: the page around it may be dark while the system is light.
    yield f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="8"/>'


def _heading(document: Mapping[str, Any], lines: Mapping[str, Sequence[_Point]], first: str) -> Iterator[str]:
    joined = max((point.weeks for line in lines.values() for point in line), default=1)
    each = "week" if joined == 1 else f"{joined} weeks"
    span = f"{_day(document['since'])} to {_day(document['until'])}"
    marks = f"; marks: what happened under {_text(_cut(first, 14))}" if first else ""
    yield f'<text class="title text" x="24" y="34">{_text(document["app"])}: the same past under each policy</text>'
    yield (
        f'<text class="muted" x="24" y="55">mean loss a row, per {each}, lower is better; {document["rows"]:,} rows, '
        f"{span}{marks}</text>"
    )


def _legend(policies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    column = (_WIDTH - 24 - _RIGHT) / _LEGEND_COLUMNS
    for position, (policy, style) in enumerate(zip(policies, _styles(p["policy"] for p in policies), strict=True)):
        x = 24 + position % _LEGEND_COLUMNS * column
        y = _LEGEND_TOP + position // _LEGEND_COLUMNS * _LEGEND_ROW
        loss = "no labels" if policy["loss"] is None else f"loss {policy['loss']:.4g}"
        count = policy["retrains"]
        yield f'<path class="line {style}" d="M{_n(x)} {y - 4}h28"/>'
        yield (
            f'<text x="{_n(x + 36)}" y="{y}"><tspan class="name text">{_text(_cut(policy["policy"], 14))}</tspan>'
            f'<tspan class="muted" dx="7">{count} retrain{"" if count == 1 else "s"}</tspan></text>'
        )
        yield f'<text class="text" x="{_n(x + 36)}" y="{y + 17}">{loss}, cost {policy["cost"]:,.0f}</text>'


def _axes(plot: _Plot) -> Iterator[str]:
    right = _WIDTH - _RIGHT
    for tick in plot.ticks:
        y = _n(plot.y(tick))
        yield f'<path class="grid" d="M{_LEFT} {y}H{right}"/>'
        yield f'<text class="muted end" x="{_LEFT - 10}" y="{_n(plot.y(tick) + 4)}">{tick:,g}</text>'
    labelled = list(_moments(plot.since, plot.until))
    for position, (moment, word) in enumerate(labelled):
        x = _n(plot.x(moment))
        yield f'<path class="grid" d="M{x} {_n(plot.top)}V{_n(plot.floor + 4)}"/>'
        yield f'<text class="muted middle" x="{x}" y="{_n(plot.floor + 20)}">{word}</text>'
        if position == 0 or labelled[position - 1][0].year != moment.year:
            yield f'<text class="text middle" x="{x}" y="{_n(plot.floor + 37)}">{moment.year}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_n(plot.bottom)}H{right}"/>'


def _moments(since: datetime, until: datetime) -> Iterator[tuple[datetime, str]]:
    """The moments that the axis names, at most 16: months, or days when there are few."""
    days = (until - since) / timedelta(days=1)
    if days <= 62:  # two months
        step = next(n for n in (1, 2, 4, 7) if days / n <= 15)
        at = _midnight(since.date()) + timedelta(days=0 if since.time() == time() else 1)
        while at <= until:
            yield at, f"{at.day} {_MONTHS[at.month - 1]}"
            at += timedelta(days=step)
        return
    step = next(n for n in (1, 2, 3, 6, 12, 24, 60, 120, 1200) if days / 30.4 / n <= 15)
    month = since.year * 12 + since.month - 1 + (since.day > 1)
    month += -month % step
    while (at := datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)) <= until:
        yield at, _MONTHS[at.month - 1]
        month += step


def _day(moment: str) -> str:
    day = datetime.fromisoformat(moment)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(value: str) -> str:
    """Text as XML may hold it."""
    return escape(_NOT_XML.sub("\ufffd", value))
