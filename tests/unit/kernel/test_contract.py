"""The contract: bad windows are refused by name and likely cause; clean ones, and real ones, are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column, SourceSpec, check, list_item, micros, usual
from staytrue.kernel.sketch import kind_of, sketch

SPEC = SourceSpec(name="bookings", time="at", key="id", label="rate")
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = (SINCE, SINCE + timedelta(days=1))
SCHEMA = (
    ("id", "int64"),
    ("at", "timestamp[UTC]"),
    ("rate", "float64"),
    ("area", "float64"),
    ("nights", "int64"),
    ("town", "string"),
)
TYPES = {"int64": np.int64, "float64": np.float64, "string": object, "timestamp[UTC]": np.int64, "timestamp": np.int64}


def column(values, type_name):
    valid = np.array([value is not None for value in values], bool)
    zero = "" if type_name == "string" else 0
    return Column(
        type=type_name, values=np.array([zero if v is None else v for v in values], TYPES[type_name]), valid=valid
    )


def window(n=60, seed=0, day=0, **changed):
    rng = np.random.default_rng(seed)
    values = {
        "id": range(n),
        "at": [micros(SINCE) + 86_400_000_000 * day + 1_000_000 * i for i in range(n)],
        "rate": rng.normal(80, 20, n).round(2).tolist(),
        "area": rng.lognormal(4, 0.4, n).tolist(),
        "nights": rng.integers(1, 9, n).tolist(),
        "town": [("Faro", "Lagos")[i % 2] for i in range(n)],
    }
    return {name: column(list(values[name]), type_name) for name, type_name in SCHEMA} | changed


def held(columns):
    rows = len(next(iter(columns.values())).valid)
    return usual(rows, {name: sketch(col.values, col.valid, kind_of(col.type)) for name, col in columns.items()})


HISTORY = [held(window(seed=seed, day=seed - 31)) for seed in range(1, 31)]


def breaches(columns, schema=SCHEMA, history=HISTORY, spec=SPEC):
    return check(spec, WINDOW, columns, schema, history)


def only(columns, **options):
    (breach,) = breaches(columns, **options)
    return breach


def test_clean_windows_are_well():
    for seed in range(40, 90):
        assert breaches(window(seed=seed)) == []
    assert breaches(window(), schema=None, history=[]) == []


def test_a_window_in_which_nothing_came_is_well():
    assert breaches(window(0)) == []
    assert breaches({}) == []


def test_a_missing_column_is_named_with_what_it_was_renamed_to():
    columns = window()
    columns["size"] = columns.pop("area")

    missing, extra = breaches(columns)

    assert (missing.code, missing.column, missing.severity) == ("ST231", "area", "refuse")
    assert "renamed to 'size'" in missing.likely
    assert (extra.code, extra.column, extra.severity) == ("ST232", "size", "warn")


def test_the_columns_that_the_source_names_must_be_there_from_the_first_window():
    columns = window()
    del columns["rate"]

    assert only(columns, schema=None, history=[]).code == "ST231"
    assert breaches(window(0) | {}, schema=None, spec=replace(SPEC, features=("view",)))[0].column == "view"


@pytest.mark.parametrize(
    ("name", "values", "type_name", "likely"),
    [
        ("nights", [1.5] * 60, "float64", "fractions"),
        ("nights", ["1"] * 60, "string", "come as text"),
        ("town", [1] * 60, "int64", "leading zeros"),
    ],
)
def test_another_type_is_refused_with_its_likely_cause(name, values, type_name, likely):
    breach = only(window(**{name: column(values, type_name)}))

    assert (breach.code, breach.column) == ("ST233", name)
    assert likely in breach.likely


def test_whole_numbers_that_became_floats_since_some_are_missing_are_tolerated():
    values = [float(i % 8 + 1) if i % 9 else None for i in range(60)]
    some_null = [replace(past, nulls={**past.nulls, "nights": 3}) for past in HISTORY]

    assert breaches(window(nights=column(values, "float64")), history=some_null) == []


def test_repeated_and_missing_keys_are_counted():
    breach = only(window(id=column([*range(57), 7, 7, 8], "int64")))
    assert (breach.code, breach.facts) == ("ST234", {"rows": 3, "example": 7, "times": 3})

    breach = only(window(id=column([*range(58), None, None], "int64")))
    assert (breach.code, breach.facts) == ("ST235", {"rows": 2})


def test_times_must_be_there_aware_and_inside_the_window():
    start = micros(SINCE)
    assert only(window(at=column([start] * 59 + [None], "timestamp[UTC]"))).code == "ST236"
    naive = breaches(window(at=column([start] * 60, "timestamp")))
    assert [breach.code for breach in naive] == ["ST233", "ST237"]
    assert "tz_localize" in naive[1].likely
    outside = only(window(at=column([start] * 57 + [start - 1, micros(WINDOW[1]), start * 2], "timestamp[UTC]")))
    assert (outside.code, outside.facts["early"], outside.facts["late"]) == ("ST238", 1, 2)
    assert "3 rows lie outside" in outside.sentence


def test_a_label_may_be_null_but_neither_nan_nor_infinite():
    rates = [80.0] * 57
    assert breaches(window(rate=column([None] * 60, "float64"))) == []

    breach = only(window(rate=column([*rates, np.inf, -np.inf, np.nan], "float64")))

    assert (breach.code, breach.facts) == ("ST239", {"nan": 1, "infinite": 2})


def test_ten_times_the_usual_rows_are_refused():
    assert only(window(700)).code == "ST240"
    assert breaches(window(500), history=HISTORY[:4]) == []


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("rate", 100),
        ("rate", 1000),
        ("rate", 12),
        ("rate", 1 / 60),
        ("area", 10.7639),
        ("area", 100),
        ("area", 0.001),
        ("rate", 2.54),
    ],
)
def test_another_unit_is_found_in_one_window_with_its_likely_factor(name, factor):
    columns = window(seed=99)
    columns[name] = replace(columns[name], values=columns[name].values * factor)

    breach = only(columns)

    assert (breach.code, breach.column) == ("ST241", name)
    assert breach.facts["factor"] == pytest.approx(factor, rel=0.3)


def test_a_change_of_unit_is_not_seen_in_few_values():
    columns = window(20)
    columns["rate"] = replace(columns["rate"], values=columns["rate"].values * 100)

    assert "ST241" not in {breach.code for breach in breaches(columns)}


def test_a_season_is_not_a_unit():
    history = list(HISTORY)
    for step in range(1, 60):
        columns = window(seed=1_000 + step)
        columns["rate"] = replace(columns["rate"], values=columns["rate"].values * 1.05**step)

        assert breaches(columns, history=history) == []
        history.append(held(columns | {"at": window(day=-100)["at"]}))


def test_a_constant_column_that_comes_alive_is_not_a_unit():
    area = column([55.0] * 60, "float64")
    constant = [held(window(seed=seed, day=seed - 31, area=area)) for seed in range(1, 31)]

    assert [breach for breach in breaches(window(), history=constant) if breach.severity == "refuse"] == []


def test_a_column_that_was_never_null_and_mostly_is_now_is_refused():
    towns = ["Faro"] * 20 + [None] * 40

    breach = only(window(town=column(towns, "string")))

    assert (breach.code, breach.column, breach.facts) == ("ST242", "town", {"nulls": 40, "rows": 60})
    often = [replace(past, nulls={**past.nulls, "town": 10 + 30 * (day % 2)}) for day, past in enumerate(HISTORY)]
    assert breaches(window(town=column(towns, "string")), history=often) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": None},
        {"key": "at"},
        {"every": timedelta(0)},
        {"label_after": timedelta(-1)},
        {"features": ("rate",)},
    ],
)
def test_a_source_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(InvalidInput, match="ST243"):
        replace(SPEC, **wrong)


def test_a_column_in_which_nothing_came_so_far_may_take_any_type():
    open_schema = tuple((name, "null" if name == "area" else type_name) for name, type_name in SCHEMA)

    assert breaches(window(), schema=open_schema) == []
    nothing = Column(type="null", values=np.full(9, None, object), valid=np.zeros(9, bool))
    assert breaches(window(9) | {"area": nothing}, history=[]) == []
    floats = Column(type="float64", values=np.zeros(9), valid=np.zeros(9, bool))
    assert breaches(window(9) | {"town": floats}, history=[]) == []


def test_only_lists_have_items():
    assert list_item("list<string>") == ("string", None)
    with pytest.raises(InvalidInput, match="ST203"):
        list_item("string")


REAL = {"hotel_rates": ("booked_at", "avg_price_per_room"), "elec2": ("at", "class")}


def real_rows(name):
    """Real data from a `data` folder in or beside the checkout."""
    for folder in Path(__file__).resolve().parents[3:5]:
        for pattern in ("data/", "*/data/", "examples/**/"):
            for path in folder.glob(f"{pattern}{name}.parquet"):
                return path.read_bytes()
    pytest.skip(f"no data/{name}.parquet in or beside this checkout")


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("every", "parts"), [(7, 80), (1, 150)])
def test_hardly_any_clean_part_of_real_data_is_refused(name, every, parts):
    from staytrue.store.frames import column as read_column
    from staytrue.store.frames import read_parquet, take, to_rows

    data, (time, label) = real_rows(name), REAL[name]
    rows = read_parquet(data)
    if name == "elec2":
        rows = take(rows, ~read_column(rows, "repeated_day").values)
    rows = to_rows(
        dict(zip(rows.column_names, rows.columns, strict=True)) | {"row": np.arange(rows.num_rows)}, doing="read"
    )
    columns = {c: read_column(rows, c) for c in rows.column_names}
    schema = tuple((c, col.type) for c, col in columns.items())
    spec = SourceSpec(name=name.replace("_", "-"), time=time, key="row", label=label, every=timedelta(days=every))
    days = columns[time].values // 86_400_000_000
    # From the summer of 2016, and from two months before another state's columns begin in elec2.
    first = (int(days.min()) + 300 if name == "elec2" else 16_983) // every * every
    history, refused = [], []
    for day in range(first, first + every * parts, every):
        low, high = np.searchsorted(days, [day, day + every])
        if low == high:
            continue
        part = {
            c: Column(type=col.type, values=col.values[low:high], valid=col.valid[low:high])
            for c, col in columns.items()
        }
        since = datetime.fromtimestamp(day * 86_400, UTC)
        found = check(spec, (since, since + timedelta(days=every)), part, schema, history[-90:])
        refused += [(day, b.sentence) for b in found if b.severity == "refuse"]
        history.append(held(part))

    assert len(refused) <= 1, refused
