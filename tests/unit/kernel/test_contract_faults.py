"""Faults planted in real parts are named, column and kind; pinned terms win; what is switched off is silent."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from staytrue.kernel.contract import Column, Contract, SourceSpec, check, learned, micros, usual
from staytrue.kernel.sketch import kind_of, sketch

ROOT = Path(__file__).resolve().parents[3]
DAY = 86_400_000_000
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
SPEC = SourceSpec(name="sales", time="at", key="id", label="paid")
TOWNS = ("Évora", "São Brás", "Faro", "Olhão", "Loulé")


def made(values, type_name):
    return Column(type=type_name, values=np.asarray(values), valid=np.ones(len(values), bool))


def window(day, n=200):
    rng = np.random.default_rng(1_000 + day)
    at = micros(SINCE) + day * DAY + np.sort(rng.integers(0, DAY, n))
    return {
        "id": made(day * 1_000 + np.arange(n), "int64"),
        "at": made(at, "timestamp[UTC]"),
        "paid": made(rng.normal(80, 9, n).round(2), "float64"),
        "width": made(rng.lognormal(3, 0.2, n).round(2), "float64"),
        "height": made(rng.lognormal(5, 0.2, n).round(2), "float64"),
        "depth": made(rng.lognormal(1, 0.2, n).round(2), "float64"),
        "town": made(np.array([TOWNS[i] for i in rng.integers(0, 5, n)], object), "string"),
        "zip": made(np.array([f"{i:05d}" for i in rng.integers(100, 120, n)], object), "string"),
        "asked": made(at - rng.integers(1, DAY, n), "timestamp[UTC]"),
    }


def held(rows):
    n = len(rows["at"].valid)
    return usual(n, {name: sketch(c.values, c.valid, kind_of(c.type)) for name, c in rows.items() if name != "id"})


HISTORY = [held(window(day)) for day in range(-30, 0)]
SCHEMA = tuple((name, column.type) for name, column in window(0).items())


def breaches(contract=None, seen=frozenset(), day=0, history=HISTORY, **changed):
    rows = window(day) | changed
    since = SINCE + timedelta(days=day)
    return check(SPEC, (since, since + timedelta(days=1)), rows, SCHEMA, history, contract, seen=seen)


def put(name, change):
    column = window(0)[name]
    return {name: replace(column, values=np.asarray(change(column.values), column.values.dtype))}


def texts(name, spell):
    return put(name, lambda values: np.array([spell(text) for text in values], object))


FAULTS = {
    "unit 1.8": ("ST241", "width", lambda: put("width", lambda v: (v * 1.8).round(2))),
    "unit 2.54": ("ST241", "width", lambda: put("width", lambda v: v * 2.54)),
    "unit 12": ("ST241", "width", lambda: put("width", lambda v: v * 12)),
    "sign": ("ST241", "width", lambda: put("width", lambda v: -v)),
    "swap": ("ST924", "width", lambda: {"width": window(0)["height"], "height": window(0)["width"]}),
    "rotation": (
        "ST924",
        "width",
        lambda: {"width": window(0)["height"], "height": window(0)["depth"], "depth": window(0)["width"]},
    ),
    "leak": ("ST925", "width", lambda: {"width": window(0)["paid"]}),
    "later": ("ST925", "asked", lambda: {"asked": replace(window(0)["at"], values=window(0)["at"].values + DAY)}),
    "constant": ("ST927", "width", lambda: put("width", lambda v: np.full(len(v), v[0]))),
    "rounded": ("ST928", "width", lambda: put("width", lambda v: v.round(1))),
    "range": ("ST920", "width", lambda: put("width", lambda v: np.where(np.arange(len(v)) % 5, v, 999.0))),
    "missing": ("ST242", "width", lambda: {"width": replace(window(0)["width"], valid=np.arange(200) % 5 > 0)}),
    "nan": ("ST242", "width", lambda: put("width", lambda v: np.where(np.arange(len(v)) % 5, v, np.nan))),
    "category": ("ST921", "town", lambda: texts("town", lambda t: "Porto" if t == "Faro" else t)),
    "case": ("ST922", "town", lambda: texts("town", str.upper)),
    "padded": ("ST922", "town", lambda: texts("town", lambda t: f"{t}  ")),
    "cut off": ("ST922", "town", lambda: texts("town", lambda t: t[:3])),
    "encoding": ("ST922", "town", lambda: texts("town", lambda t: t.encode().decode("cp1252", "replace"))),
    "zeros": ("ST922", "zip", lambda: texts("zip", lambda t: t.lstrip("0"))),
    "time zone": ("ST238", "at", lambda: put("at", lambda v: v + 2 * 3_600_000_000)),
    "column stuck": ("ST926", "width", lambda: {"width": window(-3)["width"]}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_by_its_column_and_kind(name):
    code, column, plant = FAULTS[name]

    first = breaches(**plant())[0]

    assert (first.code, first.column, first.severity) == (code, column, "refuse")
    assert first.likely


def test_clean_windows_are_refused_by_no_check():
    assert [breaches(day=day) for day in range(25)] == [[]] * 25


def test_a_feed_that_is_stuck_is_found_on_its_first_repeated_window():
    old = window(-1)
    again = old | {"at": replace(old["at"], values=old["at"].values + DAY), "id": window(0)["id"]}

    assert [(b.code, b.column) for b in breaches(**again)] == [("ST926", None)]
    # Fetched again, because its labels are known by now, a window is no repetition of itself.
    assert breaches(history=[*HISTORY, held(window(0))]) == []


def test_a_source_that_always_says_the_same_is_left_alone():
    found, history = [], []
    for day in range(9):
        same = window(0) | {"at": made(window(0)["at"].values + day * DAY, "timestamp[UTC]"), "id": window(day)["id"]}
        found += breaches(day=day, history=history, **same) if day else []
        history.append(held(same))

    assert {(b.code, b.severity) for b in found} == {("ST926", "warn")}


def test_rows_that_stop_coming_and_rows_that_are_few_are_told_apart():
    rows = window(0)
    early = rows["at"].values < micros(SINCE) + DAY // 2
    some = np.arange(200) % 10 == 0

    for keep, code in ((early, "ST923"), (some, "ST240")):
        cut = {name: Column(type=c.type, values=c.values[keep], valid=c.valid[keep]) for name, c in rows.items()}
        assert [breach.code for breach in breaches(**cut)] == [code]


def test_keys_of_earlier_windows_are_named():
    (breach,) = breaches(seen={5, 7, -40})

    assert (breach.code, breach.column, breach.facts["rows"]) == ("ST234", "id", 2)
    assert breaches(seen=set()) == []


def test_what_a_person_pinned_wins_over_what_was_learned():
    contract = learned(SPEC, SCHEMA, HISTORY)
    tight = contract.edited({"columns": {"width": {"range": [0, 30]}, "town": {"categories": ["Faro"]}}})
    assert {(b.code, b.column) for b in breaches(tight)} == {("ST920", "width"), ("ST921", "town")}

    loose = contract.edited(
        {
            "columns": {
                "width": {"range": [0, 10_000], "missing": 1.0},
                "id": {"unique": False},
                "town": {"categories": [*TOWNS, "Porto"]},
            },
            "window": {"rows": [1, None], "lag": "1d"},
        }
    )
    for name in ("range", "missing", "category"):
        assert breaches(loose, **FAULTS[name][2]()) == []
    twice = {"id": made(np.zeros(200, np.int64), "int64")}
    assert [b.code for b in breaches(contract, **twice)] == ["ST234"]
    assert breaches(loose, **twice) == []


def test_a_check_that_is_switched_off_for_a_column_is_silent_there_only():
    contract = Contract(source="sales").edited({"columns": {"width": {"ignore": ["ST927"]}}})
    constant = put("width", lambda v: np.full(len(v), v[0]))
    other = put("height", lambda v: np.full(len(v), v[0]))

    assert "ST927" not in {breach.code for breach in breaches(contract, **constant)}
    assert breaches(contract, **other)[0].code == "ST927"


@pytest.mark.parametrize(
    "values",
    [
        made(np.full(200, np.nan), "float64"),
        made(np.full(200, np.inf), "float64"),
        made(np.array([1e308, -1e308] * 100), "float64"),
        made(np.array([5e-324] * 200), "float64"),
        Column(type="float64", values=np.zeros(200), valid=np.zeros(200, bool)),
    ],
)
def test_extreme_numbers_are_refused_and_break_nothing(values):
    assert breaches(width=values)[0].severity == "refuse"


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "🙂" * 500, "=" * 70])
def test_odd_texts_break_nothing(text):
    town = made(np.array([text] * 200, object), "string")

    assert breaches(town=town)[0].column == "town"


def test_planted_faults_in_bookings_are_named():
    path = ROOT / "benchmarks/contract.py"
    if not path.is_file():
        pytest.skip("no benchmarks beside these tests")
    spec = importlib.util.spec_from_file_location("contract_benchmark", path)
    module = sys.modules["contract_benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = module.hotel()
    if data is None:
        pytest.skip("no hotel_rates.parquet in or beside this checkout")
    weekly = replace(data, spec=replace(data.spec, every=timedelta(days=7)))

    found = module.tallies(weekly, 1, 5, set(), 1)

    planted, named = sum(t.planted for t in found.values()), sum(t.named for t in found.values())
    assert named >= 0.9 * planted
    assert found["stuck feed"].named == found["stuck feed"].planted
