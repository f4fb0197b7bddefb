"""Does the contract name a planted fault, its column and its kind; and does it leave clean parts alone?

    python benchmarks/contract.py [--repeat N] [--only hotel,elec2] [--seed N]

Hotel bookings and elec2 in weekly parts: 28 of them are history, and one of the next 32 gets a fault, each kind of fault
on each column where it makes sense (`plants`), in `--repeat` seeded parts. Named is a fault when the part is refused and
the first breach names its column and its kind. Beside it the clean parts, monthly, weekly and daily: how many were
refused. As a naive method: Kolmogorov-Smirnov against the windows before, with Bonferroni, which says that a column
moved but neither why nor whether it matters.

Targets: each kind named at least 90 % of the time on each data set, at most 1 % of clean parts refused. Some columns are
derived from real ones, since the data have no accents, codes with zeros or second times: see `hotel`, `elec2`.
Elec2 may not be shipped: set DATA to the folder of its Parquet file, or keep it in ../shared/data; else it is skipped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.kernel.checks.shape import distances, shape_of
from staytrue.kernel.contract import Breach, Column, SourceSpec, Usual, check, micros, usual
from staytrue.kernel.sketch import kind_of, sketch
from staytrue.store import frames

ROOT = Path(__file__).resolve().parents[1]
PLACES = (os.environ.get("DATA", ""), ROOT.parent / "shared/data", ROOT / "examples/pricing")
Rows = dict[str, Column]
Window = tuple[datetime, datetime]
HISTORY, PARTS, KEPT = 28, 32, 90
NAMED, REFUSED = 0.9, 0.01


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set: its columns, oldest row first, and its source."""

    name: str
    spec: SourceSpec
    columns: Rows
    first: datetime

    @property
    def schema(self) -> tuple[tuple[str, str], ...]:
        """Names and types of the columns."""
        return tuple((name, column.type) for name, column in self.columns.items())

    def parts(self, every: timedelta) -> list[tuple[Window, Rows]]:
        """The rows cut into windows that are whole, those without rows left out."""
        at, step = self.columns[self.spec.time or ""].values, every // timedelta(microseconds=1)
        begin = -(-micros(self.first) // step) * step
        found = []
        while begin + step <= at[-1] + 86_400_000_000:
            low, high = np.searchsorted(at, [begin, begin + step])
            if high > low:
                since = datetime.fromtimestamp(begin / 1e6, UTC)
                found.append(((since, since + every), taken(self.columns, slice(low, high))))
            begin += step
        return found


def taken(columns: Mapping[str, Column], rows: Any) -> Rows:
    return {n: Column(type=c.type, values=c.values[rows], valid=c.valid[rows]) for n, c in columns.items()}


def made(values: Any, type_name: str) -> Column:
    return Column(type=type_name, values=values, valid=np.ones(len(values), bool))


def read(name: str) -> Rows | None:
    for place in PLACES:
        for path in sorted(Path(place or ROOT / "none").glob(f"**/{name}.parquet")):
            rows = frames.read_parquet(path.read_bytes())
            return {column: frames.column(rows, column) for column in rows.column_names}
    return None


def hotel() -> Data | None:
    """Bookings. Derived: a number as key, a text key with zeros, names with accents, when the row was written."""
    columns = read("hotel_rates")
    if columns is None:
        return None
    n = len(columns["booked_at"].values)
    accents = {"a": "\u00e3", "e": "\u00e9", "o": "\u00f6", "u": "\u00fc", "i": "\u00ed"}
    spoken = columns["country"].values.astype(str).tolist()
    agents = [str(text).translate(str.maketrans(accents)) for text in columns["agent"].values]
    codes = [f"{sum(map(ord, text)) % 97:05d}" for text in spoken]
    columns |= {
        "booking": made(np.arange(n), "int64"),
        "agency": Column(type="string", values=np.array(agents, object), valid=columns["agent"].valid),
        "country_code": Column(type="string", values=np.array(codes, object), valid=columns["country"].valid),
        "asked_at": made(columns["booked_at"].values - 3_600_000_000 * (1 + np.arange(n) % 40), "timestamp[UTC]"),
    }
    spec = SourceSpec(name="hotel", time="booked_at", key="booking", label="avg_price_per_room")
    return Data(name="hotel", spec=spec, columns=columns, first=datetime(2016, 1, 1, tzinfo=UTC))


def elec2() -> Data | None:
    """Half hours of a market, from when Victoria's columns begin. Derived: when the price was asked for."""
    columns = read("elec2")
    if columns is None:
        return None
    columns = taken(columns, ~columns.pop("repeated_day").values)
    n = len(columns["at"].values)
    columns["asked_at"] = made(columns["at"].values - 60_000_000 * (1 + np.arange(n) % 240), "timestamp[UTC]")
    spec = SourceSpec(name="elec2", time="at", key="row", label="class")
    return Data(name="elec2", spec=spec, columns=columns, first=datetime(1997, 5, 15, tzinfo=UTC))


def held(spec: SourceSpec, columns: Rows) -> Usual:
    rows = len(next(iter(columns.values())).valid)
    return usual(rows, {n: sketch(c.values, c.valid, kind_of(c.type)) for n, c in columns.items() if n != spec.key})


# -- faults -----------------------------------------------------------------------------------------------------------

Plant = tuple[Rows, Window]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault on a column: how it is planted, and what must be said of it."""

    kind: str
    column: str | None
    plant: Callable[[np.random.Generator, Rows, Place], Rows]
    said: Callable[[Breach], bool]
    severities: tuple[str, ...] = ("refuse",)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a fault is planted: the window, and the clean parts before it."""

    data: Data
    window: Window
    before: Sequence[tuple[Window, Rows]]


def changed(rows: Rows, **columns: Column) -> Rows:
    return {**rows, **columns}


def put(rows: Rows, name: str, values: Any, where: Any = None) -> Rows:
    column = rows[name]
    new = values if where is None else np.where(where, values, column.values)
    return changed(rows, **{name: replace(column, values=np.asarray(new, column.values.dtype))})


def decimals(values: Any) -> int:
    return next((d for d in range(10) if np.allclose(values, np.round(values, d), rtol=0, atol=1e-10)), 12)


def unit(name: str, factor: float, digits: int, *, whole: bool) -> Fault:
    def plant(_: np.random.Generator, rows: Rows, __: Place) -> Rows:
        # As a source would: with as many decimals as the column has, and whole numbers where they were whole.
        return put(rows, name, np.round(rows[name].values * factor, 0 if whole else digits))

    def said(breach: Breach) -> bool:
        # Neighbours among the factors (2.2 and 2.54) count: which of them it was is for the person to see.
        near = breach.facts.get("factor", 0.0) / factor if breach.code == "ST241" else 0.0
        return 1 / 1.5 < near < 1.5

    return Fault(kind=f"unit x{factor:g}", column=name, plant=plant, said=said)


def code(breach_code: str) -> Callable[[Breach], bool]:
    return lambda breach: breach.code == breach_code


def numeric_faults(data: Data, name: str) -> Iterator[Fault]:
    column = data.columns[name]
    whole = column.type == "int64"
    digits = decimals(column.values[column.valid])
    for factor in (1.8, 2.54, 12.0, 100.0, 1000.0):
        yield unit(name, factor, digits, whole=whole)

    def flipped(_: Any, rows: Rows, __: Place) -> Rows:
        return put(rows, name, -rows[name].values)

    yield Fault(kind="sign flip", column=name, plant=flipped, said=lambda b: b.facts.get("factor") == -1.0)

    def outside(rng: np.random.Generator, rows: Rows, _: Place) -> Rows:
        low, high = column.values.min(), column.values.max()
        far = high + (high - low) * rng.uniform(0.5, 2, len(rows[name].values))
        return put(rows, name, np.round(far, 0 if whole else digits), rng.random(len(far)) < 0.2)

    yield Fault(kind="range", column=name, plant=outside, said=code("ST920"))
    if 0 < digits < 9 and name != "period":
        for fewer in sorted({digits // 2, digits - 1}):

            def rounded(_: Any, rows: Rows, __: Place, fewer: int = fewer) -> Rows:
                return put(rows, name, np.round(rows[name].values, fewer))

            yield Fault(kind="rounded", column=name, plant=rounded, said=code("ST928"))

    def leak(rng: np.random.Generator, rows: Rows, _: Place) -> Rows:
        label = rows[data.spec.label or ""].values.astype(float)
        noise = rng.normal(0, 0.01 * max(label.std(), 1e-9), len(label))
        return put(rows, name, 2 * label + 1 + noise)

    if not whole:
        # A warning, where the column moves so much by itself that it may have held the label before.
        yield Fault(kind="leak", column=name, plant=leak, said=code("ST925"), severities=("refuse", "warn"))


def text_faults(data: Data, name: str) -> Iterator[Fault]:
    def new(rng: np.random.Generator, rows: Rows, __: Place) -> Rows:
        return put(rows, name, "quantum", rng.random(len(rows[name].values)) < 0.2)

    distinct = {str(text) for text in data.columns[name].values}
    # Agents, companies, countries: there new ones are no fault, however many rows they have.
    if len(distinct) <= 30:
        yield Fault(kind="new category", column=name, plant=new, said=code("ST921"))

    def respell(spell: Callable[[str], str]) -> Callable[[Any, Rows, Place], Rows]:
        def plant(_: Any, rows: Rows, __: Place) -> Rows:
            return put(rows, name, np.array([spell(str(text)) for text in rows[name].values], object))

        return plant

    spellings: dict[str, Callable[[str], str]] = {
        "letter case": str.upper,
        "padded": lambda text: f"{text}   ",
        "cut off": lambda text: text[:4],
        "zeros lost": lambda text: text.lstrip("0"),
        "encoding": lambda text: text.encode().decode("cp1252", "replace"),
    }
    for kind, spell in spellings.items():
        if sum(spell(text) != text for text in distinct) > len(distinct) / 2:
            yield Fault(kind=f"text: {kind}", column=name, plant=respell(spell), said=code("ST922"))


def column_faults(data: Data, name: str) -> Iterator[Fault]:
    for share in (0.2, 0.5, 1.0):

        def nulled(rng: np.random.Generator, rows: Rows, __: Place, share: float = share) -> Rows:
            column = rows[name]
            gone = rng.random(len(column.valid)) < share
            return changed(rows, **{name: replace(column, valid=column.valid & ~gone)})

        yield Fault(kind=f"missing {share:.0%}", column=name, plant=nulled, said=code("ST242"))

    def renamed(_: Any, rows: Rows, __: Place) -> Rows:
        return {f"{n}_2" if n == name else n: column for n, column in rows.items()}

    yield Fault(kind="renamed", column=name, plant=renamed, said=code("ST231"))

    def texts(_: Any, rows: Rows, __: Place) -> Rows:
        return changed(rows, **{name: made(np.array([str(v) for v in rows[name].values], object), "string")})

    if data.columns[name].type != "string":
        yield Fault(kind="type", column=name, plant=texts, said=code("ST233"))


def filled(rng: np.random.Generator, rows: Rows, name: str) -> Rows:
    column = rows[name]
    return put(rows, name, np.full(len(column.values), column.values[rng.integers(len(column.values))]))


def constant(name: str) -> Fault:
    return Fault(kind="constant", column=name, plant=lambda rng, rows, _: filled(rng, rows, name), said=code("ST927"))


def stuck_column(name: str) -> Fault:
    def plant(_: Any, rows: Rows, place: Place) -> Rows:
        old, n = place.before[-1][1][name], len(rows[name].values)
        at = np.arange(n) % len(old.values)
        return changed(rows, **{name: replace(old, values=old.values[at], valid=old.valid[at])})

    return Fault(kind="stuck column", column=name, plant=plant, said=code("ST926"))


def ring(names: Sequence[str]) -> Fault:
    def plant(_: Any, rows: Rows, __: Place) -> Rows:
        return changed(rows, **{one: rows[other] for one, other in zip(names, [*names[1:], names[0]], strict=True)})

    def said(breach: Breach) -> bool:
        return breach.code == "ST924" and set(breach.facts["columns"]) == set(names)

    kind = "swap" if len(names) == 2 else "rotation"
    return Fault(kind=kind, column=None, plant=plant, said=lambda b: said(b) and b.column in names)


def feed_faults(data: Data) -> Iterator[Fault]:  # noqa: C901 (a list, written as functions)
    spec = data.spec
    key, at = spec.key or "", spec.time or ""

    def thinned(rng: np.random.Generator, rows: Rows, _: Place) -> Rows:
        return taken(rows, rng.random(len(rows[at].values)) < 0.12)

    yield Fault(kind="volume down", column=None, plant=thinned, said=code("ST240"))

    def swollen(_: Any, rows: Rows, __: Place) -> Rows:
        n = len(rows[at].values)
        more = taken(rows, np.sort(np.tile(np.arange(n), 12)))
        return put(more, key, 10**9 + np.arange(12 * n))

    yield Fault(kind="volume up", column=None, plant=swollen, said=code("ST240"))

    def stopped(_: Any, rows: Rows, place: Place) -> Rows:
        since, until = map(micros, place.window)
        return taken(rows, rows[at].values < since + 0.4 * (until - since))

    yield Fault(kind="feed stops", column=at, plant=stopped, said=code("ST923"))

    def doubled(rng: np.random.Generator, rows: Rows, _: Place) -> Rows:
        n = len(rows[at].values)
        return taken(rows, np.sort(np.concatenate([np.arange(n), rng.choice(n, max(n // 20, 1))])))

    yield Fault(kind="keys twice", column=key, plant=doubled, said=code("ST234"))

    def again(_: Any, rows: Rows, place: Place) -> Rows:
        old = place.before[-1][1][key].values
        values = rows[key].values.copy()
        values[: min(9, len(old))] = old[:9][: len(values)]
        return put(rows, key, values)

    yield Fault(kind="keys of before", column=key, plant=again, said=code("ST234"))

    def stuck(_: Any, __: Rows, place: Place) -> Rows:
        (since, _until), old = place.before[-1]
        moved = old[at].values + (micros(place.window[0]) - micros(since))
        return changed(
            old, **{at: replace(old[at], values=moved), key: replace(old[key], values=10**9 + old[key].values)}
        )

    yield Fault(kind="stuck feed", column=None, plant=stuck, said=code("ST926"))
    if data.columns[at].type == "timestamp[UTC]":
        for hours in (-10, 1, 2):

            def moved(_: Any, rows: Rows, __: Place, hours: int = hours) -> Rows:
                return put(rows, at, rows[at].values + 3_600_000_000 * hours)

            yield Fault(
                kind="time zone",
                column=at,
                plant=moved,
                said=lambda b, hours=hours: b.code == "ST238" and b.facts.get("hours") == hours,  # type: ignore[misc]
            )

    def later(rng: np.random.Generator, rows: Rows, _: Place) -> Rows:
        n = len(rows[at].values)
        return put(rows, "asked_at", rows[at].values + (rng.uniform(1, 72, n) * 3_600_000_000).astype(np.int64))

    yield Fault(kind="known only after", column="asked_at", plant=later, said=code("ST925"))


def apart(parts: Sequence[tuple[Window, Rows]], spec: SourceSpec, one: str, other: str) -> bool:
    """Whether two columns are alike in type and differ enough for a swap to show: in half of the parts by 0.5."""
    gaps = []
    for _, rows in parts[:8]:
        now = held(spec, {one: rows[one], other: rows[other]})
        a, b = shape_of(now, one), shape_of(now, other)
        gaps.append(0.0 if a is None or b is None else float(distances(a, [b])[0]))
    return float(np.median(gaps)) > 0.5


def plants(data: Data, parts: Sequence[tuple[Window, Rows]], rng: np.random.Generator) -> list[Fault]:
    """Each fault on each column where it makes sense."""
    found = [*feed_faults(data)]
    middle = parts[len(parts) // 2][1]
    names = [name for name in data.columns if name not in {data.spec.key, data.spec.time}]
    by_type: dict[str, list[str]] = defaultdict(list)
    for name in names:
        column, kind = middle[name], kind_of(data.columns[name].type)
        present = column.values[column.valid]
        distinct, counts = np.unique(present, return_counts=True)
        if name != data.spec.label:
            found += column_faults(data, name)
            if counts.max() < 0.8 * len(present):
                found.append(constant(name))
                by_type[data.columns[name].type].append(name)
            # Where windows differ in rows, the same values again are not the same column.
            if data.name == "elec2" and len(distinct) >= 40 and name not in {"period", "asked_at"}:
                found.append(stuck_column(name))
        if kind == "number" and len(distinct) >= 5 and (present != 0).mean() > 0.3:
            found += numeric_faults(data, name) if name != data.spec.label else [
                fault for fault in numeric_faults(data, name) if fault.kind != "leak"
            ]  # fmt: skip
        if kind == "text":
            found += text_faults(data, name)
    for alike in by_type.values():
        pairs = [(a, b) for i, a in enumerate(alike) for b in alike[i + 1 :] if apart(parts, data.spec, a, b)]
        found += [ring(pair) for pair in pairs]
        linked = [name for name in alike if any(name in pair for pair in pairs)]
        for _ in range(3 if len(linked) > 2 else 0):
            three = [linked[at] for at in rng.permutation(len(linked))[:3]]
            edges = zip(three, [*three[1:], three[0]], strict=True)
            if all(tuple(sorted(edge, key=alike.index)) in pairs for edge in edges):
                found.append(ring(three))
    return found


# -- what is found ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    """How often a kind of fault was planted, refused, and said right."""

    planted: int = 0
    refused: int = 0
    column: int = 0
    kind: int = 0
    named: int = 0
    misses: list[str] = field(default_factory=list)


def judged(data: Data, window: Window, rows: Rows, before: Sequence[Usual], seen: Any = frozenset()) -> list[Breach]:
    return check(data.spec, window, rows, data.schema, before[-KEPT:], seen=seen)


def tallies(data: Data, repeat: int, seed: int, clean: set[int], most: int) -> dict[str, Tally]:
    """Plant every fault `repeat` times in one of 32 parts. `clean`: the parts that are refused without any fault.

    Of a kind that makes sense on many columns, `most` of them are drawn.
    """
    rng = np.random.default_rng(seed)
    parts = data.parts(data.spec.every)[: HISTORY + PARTS]
    usuals = [held(data.spec, rows) for _, rows in parts]
    found: dict[str, Tally] = defaultdict(Tally)
    by_kind: dict[str, list[Fault]] = defaultdict(list)
    for fault in plants(data, parts, rng):
        by_kind[fault.kind].append(fault)
    drawn = [alike[at] for alike in by_kind.values() for at in rng.permutation(len(alike))[:most]]
    for fault in drawn:
        for place in rng.choice(np.arange(HISTORY, len(parts)), repeat, replace=False).tolist():
            window, rows = parts[place]
            before = parts[:place]
            planted = fault.plant(rng, rows, Place(data=data, window=window, before=before))
            seen = {key for _, old in before[-4:] for key in old[data.spec.key or ""].values.tolist()}
            breaches = judged(data, window, planted, usuals[:place], seen)
            first = breaches[0] if breaches else None
            tally = found[fault.kind]
            tally.planted += 1
            named = False
            if first is not None and first.severity in fault.severities:
                column, kind = fault.column is None or first.column == fault.column, fault.said(first)
                tally.refused += first.severity == "refuse"
                tally.column += column
                tally.kind += kind
                named = column and kind and not any(part < place for part in clean)
            tally.named += named
            if not named:
                said = f"{first.code} {first.column} {first.severity}: {first.likely}" if first else "nothing"
                tally.misses.append(f"{fault.column} in part {place}: {said}")
    return found


def clean_walk(data: Data, every: timedelta) -> tuple[int, dict[int, list[Breach]], dict[int, list[Breach]], int]:
    """Parts judged, which of them were refused, which warned about, and in how many KS with Bonferroni alarms."""
    whole = replace(data, spec=replace(data.spec, every=every))
    history: list[Usual] = []
    refused, warned, naive = {}, {}, 0
    parts = whole.parts(every)
    for at, (window, rows) in enumerate(parts):
        breaches = judged(whole, window, rows, history)
        if any(b.severity == "refuse" for b in breaches):
            refused[at] = breaches
        elif breaches:
            warned[at] = breaches
        now = held(whole.spec, rows)
        naive += at > 0 and ks_alarm(now, history[-HISTORY:])
        history.append(now)
    return len(parts), refused, warned, naive


def ks_alarm(now: Usual, before: Sequence[Usual]) -> bool:
    """Whether a two-sample Kolmogorov-Smirnov test of any column against the window before is below 5 % by all columns."""
    names = list(now.weights)
    for name in names:
        a, b = shape_of(now, name), shape_of(before[-1], name)
        if a is None or b is None:
            continue
        chance = np.sqrt(1 / a.n + 1 / b.n)
        gap = float(distances(a, [b])[0]) + chance
        if 2 * np.exp(-2 * (gap / chance) ** 2) < 0.05 / len(names):
            return True
    return False


def show(name: str, found: Mapping[str, Tally], *, misses: int) -> bool:
    print(f"\n{name:>20} | planted | refused | column right | kind right | named first | share")
    well = True
    for kind, tally in found.items():
        share = tally.named / tally.planted
        well &= share >= NAMED
        print(
            f"{kind:>20} | {tally.planted:7} | {tally.refused:7} | {tally.column:12} | {tally.kind:10} | {tally.named:11} |"
            f" {share:6.1%}{'' if share >= NAMED else '  missed'}"
        )
        for miss in tally.misses[:misses]:
            print(f"{'':>22} {miss}")
    total, named = sum(t.planted for t in found.values()), sum(t.named for t in found.values())
    print(f"{'all':>20} | {total:7} | named first {named / total:.1%}")
    return well


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2, help="parts in which each fault is planted")
    parser.add_argument("--most", type=int, default=99, help="columns or pairs on which each kind is planted")
    parser.add_argument("--only", default="hotel,elec2")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--misses", type=int, default=0, help="print so many misses of each kind")
    parser.add_argument("--clean", choices=("only", "without"), help="only the clean parts, or none of them")
    args = parser.parse_args(list(arguments) if arguments is not None else None)
    well = True
    for name, load in (("hotel", hotel), ("elec2", elec2)):
        data = load() if name in args.only.split(",") else None
        if data is None:
            print(f"{name}: skipped, no data")
            continue
        data = replace(data, spec=replace(data.spec, every=timedelta(days=7)))
        started = time.process_time()
        weekly: set[int] = set()
        total = bad = 0
        for words, every in (("monthly", 28), ("weekly", 7), ("daily", 1)) if args.clean != "without" else ():
            parts, refused, warned, naive = clean_walk(data, timedelta(days=every))
            total, bad = total + parts, bad + len(refused)
            if every == 7:
                weekly = {at for at in refused if at >= HISTORY}
            print(
                f"{name} {words}: {parts} clean parts, {len(refused)} refused, {len(warned)} with a warning; "
                f"KS+Bonferroni alarms in {naive}"
            )
            for at, breaches in [*refused.items()][:6]:
                print(f"    part {at}: {breaches[0].code} {breaches[0].sentence}")
            if args.misses:
                for at, breaches in [*warned.items()][:6]:
                    print(f"    warn {at}: {breaches[0].code} {breaches[0].sentence}")
        if total:
            print(f"{name}: {bad / total:.2%} of clean parts refused, at most {REFUSED:.0%} wanted")
            well &= bad / total <= REFUSED
        if args.clean != "only":
            well &= show(name, tallies(data, args.repeat, args.seed, weekly, args.most), misses=args.misses)
        print(f"{time.process_time() - started:.0f} CPU s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
