"""The loss of an app over time: its band, what would have been lost without any retraining, what happened when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from staytrue.dashboard.drawing import Scale, TimeScale, days, link, n, picture, round_numbers, text, tooltip

__all__ = ["loss_picture"]

_TOP: Final = 14
_LANE: Final = 21
_APART: Final = 7
_TITLE_CHARS: Final = 150
_LANES: Final = (
    ("promoted", "good", "m0-5l5 9h-10z"),
    ("taken back", "bad", "m0 5l5-9h-10z"),
    ("rejected", "cross", "m-4-4l8 8m0-8l-8 8"),
    ("trials", "trial", ""),
    ("retrains", "tick", "m0-5v10"),
    ("alarms", "bad", "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"),
    ("blame", "warn", "m-4-4h8v8h-8z"),
    ("repaired", "good", "m-5 0h10m-5-5v10"),
    ("commits", "quiet", "m0-5l5 5l-5 5l-5-5z"),
    ("quarantine", "warn", "m-4-5h8v10h-8z"),
)
"""Lane, class, shape around a point; the shapes differ, not the colours alone."""


@dataclass(frozen=True, kw_only=True)
class _Plot:
    x: TimeScale
    y: Scale
    ticks: tuple[float, ...]
    left: float
    right: float
    bottom: float
    wide: bool


def loss_picture(lost: Mapping[str, Any], events: Sequence[Mapping[str, Any]], *, width: int, href: str) -> str:
    """The picture; empty where no loss is known.

    Args:
        lost: as `loop/losses.py` gives it. events: as the health document has them.
        width: in pixels; below 600 it is drawn for a phone.
        href: of the log; each mark leads to its event.
    """
    if not lost["points"]:
        return ""
    wide = width >= 600
    plot = _plot(lost, width=width, wide=wide)
    lanes = [(lane, [e for e in events if e["lane"] == lane[0]]) for lane in _LANES]
    lanes = [(lane, found) for lane, found in lanes if found]
    floor = plot.bottom + 8 + _LANE * len(lanes)
    body = [
        *_axes(plot, floor),
        *_guides(plot, lanes),
        *_lines(plot, lost),
        *_marks(plot, lanes, href),
    ]
    return picture(body, width=width, height=floor + 22, name=f"Loss over time. {lost['sentence']}", style="loss")


def _plot(lost: Mapping[str, Any], *, width: int, wide: bool) -> _Plot:
    values = [one["loss"] for one in lost["line"]] + [one["loss"] for one in lost["never"] or []]
    values += [lost["fresh"]] if lost["fresh"] is not None else []
    bounds = [one[side] for one in lost["line"] for side in ("low", "high") if one[side] is not None]
    bounds += [point["loss"] for point in lost["points"]]
    # Single points, and the band while few of them are known, may stick out: they are cut, so that the line keeps its room.
    room = 0.6 * (max(values) - min(0.0, *values)) or 1.0
    shown = [bound for bound in bounds if min(values) - room <= bound <= max(values) + room]
    ticks = round_numbers([*values, *shown])
    left, right = (84 if wide else 66), width - (10 if wide else 4)
    bottom = _TOP + (210 if wide else 170)
    since = datetime.fromisoformat(lost["points"][0]["since"])
    until = datetime.fromisoformat(lost["points"][-1]["until"])
    return _Plot(
        x=TimeScale(since=since, until=until, start=left, end=right - 6),
        y=Scale(low=ticks[0], high=ticks[-1], start=bottom, end=_TOP),
        ticks=ticks,
        left=left,
        right=right,
        bottom=bottom,
        wide=wide,
    )


def _axes(plot: _Plot, floor: float) -> Iterator[str]:
    for tick in plot.ticks:
        y = plot.y(tick)
        yield f'<path class="grid" d="M{n(plot.left)} {n(y)}H{n(plot.right)}"/>'
        yield f'<text class="axis end" x="{n(plot.left - 8)}" y="{n(y + 4)}">{tick:,g}</text>'
    for at, name in days(plot.x.since, plot.x.until, most=8 if plot.wide else 4):
        x = plot.x(at)
        yield f'<path class="grid" d="M{n(x)} {_TOP}V{n(floor)}"/>'
        anchor = " end" if x > plot.right - 30 else " middle" if x > plot.left + 14 else ""
        yield f'<text class="axis{anchor}" x="{n(x)}" y="{n(floor + 15)}">{text(name)}</text>'


def _guides(plot: _Plot, lanes: Sequence[Any]) -> Iterator[str]:
    """A thin line up from each change of the champion: there the loss may turn."""
    for (name, _, _), found in lanes:
        if name in {"promoted", "taken back", "repaired"}:
            for event in found:
                x = n(plot.x(datetime.fromisoformat(event["at"])))
                yield f'<path class="guide" d="M{x} {_TOP}V{n(plot.bottom)}"/>'


def _lines(plot: _Plot, lost: Mapping[str, Any]) -> Iterator[str]:
    line = [(plot.x(datetime.fromisoformat(one["at"])), one) for one in lost["line"]]
    band = [(x, one) for x, one in line if one["low"] is not None]
    if len(band) > 1:
        upper = "L".join(f"{n(x)} {n(plot.y(one['high']))}" for x, one in band)
        lower = "L".join(f"{n(x)} {n(plot.y(one['low']))}" for x, one in reversed(band))
        yield f'<path class="band" d="M{upper}L{lower}z"/>'
    if lost["fresh"] is not None:
        y = plot.y(lost["fresh"])
        yield f'<path class="fresh" d="M{n(plot.left)} {n(y)}H{n(plot.right)}"/>'
    for point in lost["points"]:
        middle = datetime.fromisoformat(point["since"])
        middle += (datetime.fromisoformat(point["until"]) - middle) / 2
        where = f'cx="{n(plot.x(middle))}" cy="{n(plot.y(point["loss"]))}"'
        yield f'<circle class="dot" {where} r="1.6"/>'
    never = [(plot.x(datetime.fromisoformat(one["at"])), one["loss"]) for one in lost["never"] or []]
    if never:
        yield _line("never", [(x, plot.y(loss)) for x, loss in never])
    yield _line("live", [(x, plot.y(one["loss"])) for x, one in line])
    x, last = line[-1]
    yield f'<circle class="end-dot" cx="{n(x)}" cy="{n(plot.y(last["loss"]))}" r="3.5"/>'


def _line(style: str, places: Sequence[tuple[float, float]]) -> str:
    steps = "L".join(f"{n(x)} {n(y)}" for x, y in places)
    return f'<path class="{style}" d="M{steps}{"h0" if len(places) == 1 else ""}"/>'


def _marks(plot: _Plot, lanes: Sequence[Any], href: str) -> Iterator[str]:
    for at, ((name, style, shape), found) in enumerate(lanes):
        y = plot.bottom + 8 + _LANE * (at + 0.5)
        yield f'<text class="axis end" x="{n(plot.left - 8)}" y="{n(y + 4)}">{name}</text>'
        if name == "trials":
            ends = [event for (lane, _, _), others in lanes if lane in {"promoted", "rejected"} for event in others]
            yield from _trials(plot, found, ends, y, href)
            continue
        last, waiting = float("-inf"), 0
        for event in found:
            x = plot.x(datetime.fromisoformat(event["at"]))
            if x - last < _APART:
                waiting += 1
                continue
            last = x
            yield _mark(f'<path class="{style}" d="M{n(x)} {n(y)}{shape}"/>', event, href)


def _trials(
    plot: _Plot, found: Sequence[Mapping[str, Any]], ends: Sequence[Mapping[str, Any]], y: float, href: str
) -> Iterator[str]:
    """From the first step of each challenger to what became of it, a bar; one that is under way goes on to the edge."""
    spans: dict[str, list[Mapping[str, Any]]] = {}
    for event in found:
        if event["release"]:
            spans.setdefault(event["release"], []).append(event)
    for events in spans.values():
        last = events[-1]
        over = [one for one in ends if one["release"] == last["release"] and one["seq"] > last["seq"]]
        begin = plot.x(datetime.fromisoformat(events[0]["at"]))
        end = plot.x(datetime.fromisoformat(over[0]["at"])) if over else plot.x.end
        bar = f'<rect class="trial" x="{n(begin)}" y="{n(y - 3.5)}" width="{n(max(end - begin, 5))}" height="7" rx="3.5"/>'
        yield _mark(bar, last, href)


def _mark(shape: str, event: Mapping[str, Any], href: str) -> str:
    said = event["sentence"]
    said = said if len(said) <= _TITLE_CHARS else f"{said[:_TITLE_CHARS].rstrip()}…"
    said = f"{event['at'][:10]} {said}"
    where = f"{href}?before={event['seq'] + 1}#e{event['seq']}"
    return link(where, f"{tooltip(said)}{shape}", style="mark", by_key=False)
