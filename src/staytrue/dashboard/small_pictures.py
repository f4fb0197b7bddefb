"""The other pictures: a trial as a race, where a release comes from, how a column moved, policies week by week."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from staytrue.dashboard.drawing import Scale, link, n, picture, round_numbers, text, tooltip
from staytrue.dashboard.words import cut, number, url_part

__all__ = ["column_picture", "key_picture", "lineage_picture", "policies_picture", "race_picture", "rows_picture"]


# ------------------------------------------------------------ a race


def race_picture(trial: Mapping[str, Any], *, width: int) -> str:
    """How much less a challenger loses than the champion, look by look, against the lines that decide; empty without a number."""
    looks = [one for one in trial["looks"] if one["mean"] is not None and one["rows"]]
    looks = looks or [one for one in trial["steps"] if one["mean"] is not None and one["rows"]]
    if not looks:
        return ""
    wide = width >= 600
    margin = trial["margin"]
    bounds = [one[side] for one in looks for side in ("low", "high") if one[side] is not None]
    means = [one["mean"] for one in looks]
    reach = max([*(abs(m) for m in means), abs(margin or 0.0) * 2, 1e-9])
    # A first look may be very wide: it is cut, so that what decides can be seen.
    shown = [min(max(bound, -4 * reach), 4 * reach) for bound in bounds]
    ticks = round_numbers([*means, *shown, 0.0, margin or 0.0])
    left, right, top, bottom = (64 if wide else 52), width - 8, 22, 22 + (190 if wide else 170)
    most = max(one["rows"] for one in looks)
    x = Scale(low=0, high=most * 1.04, start=left, end=right)
    y = Scale(low=ticks[0], high=ticks[-1], start=bottom, end=top)
    body = [
        *_race_ground(x, y, ticks, margin, (left, right, top, bottom), wide=wide, most=most),
        *_race_looks(x, y, looks),
    ]
    said = f"Difference in loss a row, challenger minus champion. {trial['sentence']}"
    return picture(body, width=width, height=bottom + 24, name=said, style="race")


def _race_ground(
    x: Scale,
    y: Scale,
    ticks: Sequence[float],
    margin: float | None,
    frame: tuple[float, float, float, float],
    *,
    wide: bool,
    most: int,
) -> Iterator[str]:
    left, right, _, bottom = frame
    yield f'<rect class="wins" x="{n(left)}" y="{n(y(0))}" width="{n(right - left)}" height="{n(max(bottom - y(0), 0))}"/>'
    for tick in ticks:
        yield f'<path class="grid" d="M{n(left)} {n(y(tick))}H{n(right)}"/>'
        yield f'<text class="axis end" x="{n(left - 8)}" y="{n(y(tick) + 4)}">{f"{tick:+,g}" if tick else "0"}</text>'
    yield f'<path class="zero" d="M{n(left)} {n(y(0))}H{n(right)}"/>'
    if margin:
        said = tooltip(f"margin {margin:.4g}: still not worse")
        yield f'<path class="margin" d="M{n(left)} {n(y(margin))}H{n(right)}">{said}</path>'
    yield f'<text class="axis" x="{n(left)}" y="12">{"loses more than the champion" if wide else "loses more"} ↑</text>'
    yield f'<text class="axis end" x="{n(right)}" y="12">{"loses less than the champion" if wide else "loses less"} ↓</text>'
    for rows in round_numbers([0.0, float(most)], lines=4 if wide else 3):
        if rows <= most * 1.04:
            anchor = " middle" if rows else ""
            name = f"{rows:,.0f}{' rows' if not rows else ''}"
            yield f'<text class="axis{anchor}" x="{n(x(rows))}" y="{n(bottom + 16)}">{name}</text>'


def _race_looks(x: Scale, y: Scale, looks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    both = [one for one in looks if one["low"] is not None and one["high"] is not None]
    if len(both) > 2:
        upper = "L".join(f"{n(x(one['rows']))} {n(y(one['high']))}" for one in both)
        lower = "L".join(f"{n(x(one['rows']))} {n(y(one['low']))}" for one in reversed(both))
        yield f'<path class="band" d="M{upper}L{lower}z"/>'
    line = "L".join(f"{n(x(one['rows']))} {n(y(one['mean']))}" for one in looks)
    yield f'<path class="live" d="M{line}{"h0" if len(looks) == 1 else ""}"/>'
    for one in looks if len(looks) <= 6 else looks[-1:]:
        at = x(one["rows"])
        known = one["low"] is not None and one["high"] is not None
        bounds = f"{number(one['low'])} .. {number(one['high'])}" if known else "no bounds yet"
        if known:
            low, high = n(y(one["low"])), n(y(one["high"]))
            yield f'<path class="whisker" d="M{n(at)} {low}V{high}m-4 0h8M{n(at - 4)} {low}h8"/>'
        said = f"{one.get('kind') or 'now'}: {one['rows']:,} rows, {one['mean']:+.4g} a row ({bounds})"
        yield f'<circle class="end-dot" cx="{n(at)}" cy="{n(y(one["mean"]))}" r="4">{tooltip(said)}</circle>'


# ------------------------------------------------------------ lineage

_BOX: Final = (148, 40)
_GAP: Final = 36


def lineage_picture(lineage: Mapping[str, Any], *, base: str) -> str:
    """What a release is made of, from left to right, above the champions that it comes from. `base`: of the app's pages."""
    chain, parts = lineage["chain"], lineage["made_of"]
    width, height = _BOX
    columns = max(len(chain), 3)
    across = columns * (width + _GAP) - _GAP
    top = 14
    body: list[str] = []
    last = len(chain) - 1
    for at, one in enumerate(chain):
        x, y = at * (width + _GAP), top
        if at:
            what = ", ".join(dict.fromkeys(said.partition(":")[0] for said in one["differs"])) or "the same"
            body.append(f'<path class="edge" d="M{n(x - _GAP)} {n(y + height / 2)}H{n(x - 3)}m-5-4l5 4l-5 4"/>')
            body.append(
                f'<text class="axis middle" x="{n(x + width / 2)}" y="{n(y + height + 15)}">new: {text(cut(what, 20))}</text>'
            )
        style = "node here" if at == last else "node"
        name = "this release" if at == last else "parent" if at == last - 1 else "before"
        href = f"{base}/releases/{url_part(one['id'])}"
        words = tooltip("; ".join(one["differs"]) or one["id"])
        body.append(link(href, _node(x, y, style, one["id"][:8], name) + words))
    begin, y0 = last * (width + _GAP), top + height + 46
    inputs, model = parts, lineage["model"]
    for at, part in enumerate(inputs):
        x = begin - (width + _GAP) * 2 if last >= 2 else 0
        y = y0 + at * (height + 10)
        body.append(_node(x, y, "node part", cut(part["name"], 18), f"{part['kind']} {(part['id'] or '')[:8]}".strip()))
        middle = x + width
        to = (x + width + _GAP, y0 + height / 2)
        body.append(
            f'<path class="edge" d="M{n(middle)} {n(y + height / 2)}C{n(middle + 20)} {n(y + height / 2)} '
            f'{n(to[0] - 20)} {n(to[1])} {n(to[0] - 2)} {n(to[1])}"/>'
        )
    x_model = (begin - (width + _GAP) * 2 if last >= 2 else 0) + width + _GAP
    body.append(
        _node(
            x_model,
            y0,
            "node part",
            "model" if model else "no model",
            (model or "plain service")[: 13 if not model else 8],
        )
    )
    x_here = x_model + width + _GAP
    body.append(f'<path class="edge" d="M{n(x_model + width)} {n(y0 + height / 2)}H{n(x_here - 3)}m-5-4l5 4l-5 4"/>')
    body.append(_node(x_here, y0, "node here", chain[-1]["id"][:8], "this release"))
    tall = y0 + max(len(inputs), 1) * (height + 10)
    names = ", then ".join(one["id"][:8] for one in chain)
    return picture(
        body,
        width=max(across, x_here + width) + 2,
        height=tall,
        name=f"Comes from {names}.",
        style="lineage",
        fixed=True,
    )


def _node(x: float, y: float, style: str, name: str, below: str) -> str:
    width, height = _BOX
    return (
        f'<rect class="{style}" x="{n(x + 1)}" y="{n(y)}" width="{width}" height="{height}" rx="6"/>'
        f'<text class="name" x="{n(x + 12)}" y="{n(y + 17)}">{text(name)}</text>'
        f'<text class="axis" x="{n(x + 12)}" y="{n(y + 32)}">{text(below)}</text>'
    )


# ------------------------------------------------------------ small multiples


def column_picture(column: Mapping[str, Any], name: str, *, width: int = 180, height: int = 34) -> str:
    """A column month by month: its quartiles around the median, or the shares of its most frequent values."""
    months = column["months"]
    if len(months) < 2:
        return ""
    x = Scale(low=0, high=len(months) - 1, start=2, end=width - 2)
    body: list[str] = []
    if "shares" in months[0]:
        y = Scale(low=0.0, high=1.0, start=height - 3, end=3)
        for at, which in enumerate(months[0]["shares"]):
            places = [
                (x(k), y(month["shares"][which]))
                for k, month in enumerate(months)
                if month["shares"].get(which) is not None
            ]
            if places:
                steps = "L".join(f"{n(px)} {n(py)}" for px, py in places)
                body.append(f'<path class="share s{at}" d="M{steps}">{tooltip(cut(which, 60))}</path>')
        said = f"{name}: shares of {', '.join(cut(which, 20) for which in months[0]['shares'])} by month"
    else:
        known = [(k, month) for k, month in enumerate(months) if month.get("median") is not None]
        if len(known) < 2:
            return ""
        low = min(month["q25"] for _, month in known)
        high = max(month["q75"] for _, month in known)
        y = Scale(low=low, high=high if high > low else low + 1, start=height - 3, end=3)
        upper = "L".join(f"{n(x(k))} {n(y(month['q75']))}" for k, month in known)
        lower = "L".join(f"{n(x(k))} {n(y(month['q25']))}" for k, month in reversed(known))
        middle = "L".join(f"{n(x(k))} {n(y(month['median']))}" for k, month in known)
        body = [f'<path class="band" d="M{upper}L{lower}z"/>', f'<path class="live" d="M{middle}"/>']
        said = f"{name}: median and quartiles by month, {_value(column, low)} to {_value(column, high)}"
    return picture(body, width=width, height=height, name=said, style="spark", fixed=True)


def _value(column: Mapping[str, Any], value: float) -> str:
    if column["kind"] == "time":
        return f"{datetime.fromtimestamp(value / 1e6).astimezone():%Y-%m-%d}"
    return number(value)


def key_picture(policy: str, at: int) -> str:
    """The line of a policy, for beside its name."""
    style = "never" if policy == "never" else f"policy l{at % 5}"
    return f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><path class="{style}" d="M1 5h24"/></svg>'


def rows_picture(months: Sequence[Mapping[str, Any]], *, width: int = 640, height: int = 64) -> str:
    """Rows by month, as bars."""
    if not months:
        return ""
    most = max(month["rows"] for month in months) or 1
    each = min((width - 4) / len(months), 28)
    body = []
    for at, month in enumerate(months):
        tall = max((height - 4) * month["rows"] / most, 1)
        said = f"{month['month'][:7]}: {month['rows']:,} rows"
        body.append(
            f'<rect class="bar" x="{n(2 + at * each)}" y="{n(height - tall)}" width="{n(max(each - 2, 1))}" height="{n(tall)}">'
            f"{tooltip(said)}</rect>"
        )
    return picture(body, width=width, height=height, name=f"Rows by month, {most:,} at most", style="bars", fixed=True)


def policies_picture(policies: Sequence[Mapping[str, Any]], *, width: int) -> str:
    """What each policy lost week by week."""
    lines = [(one["policy"], one["weekly"]) for one in policies if one["weekly"]]
    if not lines:
        return ""
    wide = width >= 600
    left, right, top, bottom = 52, width - 8, 10, 190
    every = [date.fromisoformat(week[0]).toordinal() for _, weekly in lines for week in weekly]
    ticks = round_numbers([week[2] for _, weekly in lines for week in weekly])
    x = Scale(low=min(every), high=max(every), start=left, end=right)
    y = Scale(low=ticks[0], high=ticks[-1], start=bottom, end=top)
    body = []
    for tick in ticks:
        body.append(f'<path class="grid" d="M{left} {n(y(tick))}H{n(right)}"/>')
        body.append(f'<text class="axis end" x="{left - 8}" y="{n(y(tick) + 4)}">{tick:,g}</text>')
    body.append(
        f'<text class="axis" x="{left}" y="{bottom + 16}">{text(date.fromordinal(min(every)).isoformat())}</text>'
    )
    body.append(
        f'<text class="axis end" x="{n(right)}" y="{bottom + 16}">{text(date.fromordinal(max(every)).isoformat())}</text>'
    )
    for at, (name, weekly) in reversed(list(enumerate(lines))):
        steps = "L".join(f"{n(x(date.fromisoformat(day).toordinal()))} {n(y(loss))}" for day, _, loss in weekly)
        style = "never" if name == "never" else f"policy l{at % 5}"
        body.append(f'<path class="{style}" d="M{steps}">{tooltip(name)}</path>')
    del wide
    named = ", ".join(name for name, _ in lines)
    return picture(body, width=width, height=bottom + 22, name=f"Weekly loss under {named}", style="policies")
