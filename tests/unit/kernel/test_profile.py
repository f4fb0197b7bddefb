"""Profiles: which cell counts what, and how fast and small that stays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Column
from staytrue.kernel.profile import Codes, Profile, Reference, by_segment, narrow, of_sketches, profile, reference
from staytrue.kernel.sketch import kind_of, sketch


def column(values, type_name="float64", dtype=None):
    valid = np.array([value is not None for value in values], bool)
    dtypes = {"float64": np.float64, "int64": np.int64, "bool": np.bool_, "timestamp[UTC]": np.int64}
    array = np.empty(len(values), dtype or dtypes.get(type_name, object))
    for at, value in enumerate(values):
        array[at] = value if value is not None or array.dtype == object else 0
    return Column(type=type_name, values=array, valid=valid)


def numbers(values):
    return Column(type="float64", values=np.asarray(values), valid=np.ones(len(values), bool))


def over(**columns):
    return reference({name: sketch(c.values, c.valid, kind_of(c.type)) for name, c in columns.items()})


def counted(made, feature, one):
    """The cells that are not empty, by label."""
    counts = profile(made, {made.bins[feature].column: one}).counts[feature]
    return {made.bins[feature].label(int(cell)): int(counts[cell]) for cell in np.flatnonzero(counts)}


def test_each_kind_of_number_has_its_cell():
    made = over(x=column([1.0, 2.5, 4.0]))

    got = counted(made, "x", column([None, float("nan"), float("inf"), 0.0, -0.0, -3.0, 0.5, 1.5, 1e300]))

    assert got == {"missing": 1, "NaN or infinite": 2, "0": 2, "below 1": 2, "from 1 to 2.5": 1, "4.062 or above": 1}


def test_bins_hold_equal_shares_of_training():
    rng = np.random.default_rng(1)
    training = numbers(rng.normal(0, 1, 20_000))
    made = over(x=training)

    counts = profile(made, {"x": training}).counts["x"]

    inner = counts[counts > 0]
    assert 60 <= len(inner) <= 64
    assert inner.max() < 2 * 20_000 / 63
    assert counts[[0, 1, 2, -1]].sum() == 0


def test_a_column_has_at_most_128_cells():
    rng = np.random.default_rng(1)
    made = over(
        x=numbers(rng.standard_cauchy(9_999)), t=column([f"n{at % 999}" for at in range(9_999)], "string"), e=column([])
    )

    assert all(bins.size <= 128 for bins in made.bins.values())


def test_the_long_way_counts_as_the_short_way():
    rng = np.random.default_rng(2)
    values = np.where(rng.random(70_001) < 0.5, 3.0, rng.normal(0, 1, 70_001))
    made = over(x=numbers(values[:500]))

    whole = profile(made, {"x": numbers(values)})
    pieces = Profile.empty(made)
    for start in range(0, len(values), 1_000):
        pieces = pieces + profile(made, {"x": numbers(values[start : start + 1_000])})

    assert whole == pieces
    for rows in (32_767, 32_768, 65_536, 65_537, 65_538):
        again = sum(
            (profile(made, {"x": numbers(part)}) for part in np.array_split(values[:rows], 9)), Profile.empty(made)
        )
        assert profile(made, {"x": numbers(values[:rows])}) == again


def test_other_widths_and_layouts_of_numbers_count_alike():
    values = np.arange(-50, 50)
    made = over(x=numbers(values.astype(float)))

    want = profile(made, {"x": numbers(values.astype(float))})
    for other in (
        values.astype(np.int64),
        values.astype(np.float32),
        values.astype(np.int8),
        values.astype(">f8"),
        np.stack([values.astype(float)] * 2, axis=1)[:, 0],
    ):
        assert profile(made, {"x": numbers(other)}) == want


def test_nulls_are_taken_back_whatever_value_they_hold():
    values = np.array([7.0] * 90 + [np.nan] * 5 + [1e9] * 5)
    made = over(x=numbers(values[:90]))

    got = counted(made, "x", Column(type="float64", values=values, valid=values == 7.0))

    assert got == {"missing": 10, "7": 90}


def test_categories_are_named_known_rare_or_new():
    training = [f"c{at:02}" for at in range(70) for _ in range(100 - at)] + ["once"]
    made = over(x=column(training, "string"))

    got = counted(made, "x", column(["c00", "c69", "once", "never", None, "ü"], "string"))

    assert got == {"missing": 1, "new or rare": 3, "the other known": 1, "'c00'": 1}


def test_codes_count_as_the_texts_they_stand_for():
    texts = ["a", "b", "a", "x" * 70, "c", "x" * 69 + "y"]
    made = over(x=column(texts[:4] * 3, "string"))
    categories = sorted(set(texts))

    want = profile(made, {"x": column([*texts, None], "string")})
    for dtype in (np.int8, np.uint16, np.int32, np.int64, np.uint64):
        codes = np.array([*(categories.index(text) for text in texts), 0], dtype)
        got = Codes(codes=codes, valid=np.arange(7) < 6, categories=categories)
        assert profile(made, {"x": got}) == want


def test_free_texts_are_watched_by_length_and_characters():
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefg hij"), 30)) for _ in range(2_000)]
    made = over(comment=column(words, "string"))
    digits = ["".join(rng.choice(list("0123456789"), 5)) for _ in range(100)]

    assert set(made.bins) == {"comment", "comment: length"} | {
        f"comment: {name}" for name in ("letters", "digits", "spaces", "punctuation", "non_ascii", "upper")
    }
    assert counted(made, "comment: digits", column(digits, "string")) == {"up to 8/8": 100}
    assert counted(made, "comment: letters", column(digits, "string")) == {"none": 100}
    assert counted(made, "comment: length", column(digits, "string")) == {"below 30": 100}


def test_too_many_categories_fall_into_groups_and_sketches_agree():
    names = [f"user-{at}" for at in range(5_000)]
    made = over(x=column(names, "string"))
    window = column([f"user-{at % 1500}" for at in range(3_000)], "string")

    got = profile(made, {"x": window})

    assert made.bins["x"].kind == "group"
    assert np.count_nonzero(got.counts["x"]) == 64
    assert got == of_sketches(made, {"x": sketch(window.values, window.valid, "text")})


def test_names_that_a_sketch_dropped_count_as_new():
    made = over(x=column(["a", "b"] * 50, "string"))
    window = column([*(f"user-{at}" for at in range(2_000)), "a", "b"], "string")

    rows, stored = profile(made, {"x": window}), of_sketches(made, {"x": sketch(window.values, window.valid, "text")})

    assert stored.rows == rows.rows == stored.counts["x"].sum()
    assert stored.counts["x"][1] >= rows.counts["x"][1] == 2_000


def test_times_count_by_day_of_the_week():
    day = 86_400_000_000
    made = over(at=column([0], "timestamp[UTC]"))

    assert counted(made, "at", column([0, 4 * day, -day, None], "timestamp[UTC]")) == {
        "missing": 1,
        "Monday": 1,
        "Wednesday": 1,
        "Thursday": 1,
    }


def test_rankings_are_watched_by_length_and_by_what_stands_first():
    rankings = [np.array([1, 2, 3]), np.array([1, 3]), np.array([2])] * 20
    made = over(shown=column(rankings, "list<int64>"))

    assert counted(
        made, "shown: first", column([np.array([2, 1]), np.array([9]), np.array([], int)], "list<int64>")
    ) == {
        "missing": 1,
        "new or rare": 1,
        "'2'": 1,
    }
    assert counted(made, "shown: length", column([np.array([], int), np.arange(50)], "list<int64>")) == {
        "0": 1,
        "3.031 or above": 1,
    }


def test_vectors_count_to_the_nearest_centroid():
    rng = np.random.default_rng(4)
    sample = np.concatenate([rng.normal(at, 0.1, (100, 8)) for at in (-5, 0, 5)])
    s = {"v": sketch(np.array([None], object), np.zeros(1, bool), "list")}
    made = reference(s, vectors={"v": sample}, clusters=3)

    got = profile(
        made, {"v": column([*rng.normal(5, 0.1, (10, 8)), np.full(8, np.nan), np.ones(3), None], "list<float64>[8]")}
    )

    assert sorted(got.counts["v"].tolist()) == [0, 0, 3, 10]
    assert made.digest == reference(s, vectors={"v": sample}, clusters=3).digest
    with pytest.raises(InvalidInput, match="ST904"):
        of_sketches(made, s)
    with pytest.raises(InvalidInput, match="ST905"):
        profile(made, {"v": column([["a"] * 8], "list<string>")})


def test_narrow_columns_move_only_when_they_are_centred():
    rng = np.random.default_rng(5)
    training = numbers(rng.normal(52.25, 0.02, 5_000))
    window = numbers(rng.normal(52.27, 0.02, 5_000))
    s = {"lat": sketch(training.values, training.valid, "number")}

    plain, centred = reference(s), reference(s, centred=narrow(s))

    def share(made):
        before, after = (profile(made, {"lat": c}).counts["lat"] for c in (training, window))
        return np.abs(before - after).sum() / 2 / 5_000

    assert narrow(s) == ["lat"]
    assert share(plain) < 0.05
    assert share(centred) > 0.35
    assert centred.bins["lat"].size <= 128
    assert Reference.from_document(json.loads(canonical_json(centred.document()))) == centred
    with pytest.raises(InvalidInput, match="'lat'"):
        of_sketches(centred, s)


def test_what_a_sketch_sees_well_is_not_narrow():
    rng = np.random.default_rng(6)
    wide = {
        "price": rng.lognormal(3, 1, 999),
        "count": rng.poisson(3, 999),
        "constant": np.full(9, 7.0),
        "mixed": np.where(rng.random(999) < 0.5, 0, rng.normal(50, 5, 999)),
        "empty": np.array([]),
    }

    assert narrow({name: sketch(v, np.ones(len(v), bool), "number") for name, v in wide.items()}) == []


def test_a_column_called_like_a_view_wins():
    made = over(
        **{
            "a": column([f"text {at} of its own" for at in range(50)], "string"),
            "a: length": column([True, False], "bool"),
        }
    )

    assert made.bins["a: length"].kind == "bool"


def test_a_reference_does_not_depend_on_the_order_of_columns():
    a, b = numbers([1.0, 2.0]), column(["x"] * 3, "string")

    assert over(a=a, b=b).digest == over(b=b, a=a).digest != over(a=a).digest


def test_columns_of_nulls_count_as_missing_and_any_value_is_news():
    made = over(x=column([None, None], "null"))

    assert counted(made, "x", column([None, 3.0])) == {"missing": 1, "present": 1}
    assert counted(over(x=column([1.0])), "x", column([None, None], "null")) == {"missing": 2}


def test_a_sketch_of_an_earlier_version_is_refused_where_it_can_not_answer():
    words = column([f"text {at} of its own" for at in range(50)], "string")
    new = sketch(words.values, words.valid, "text")
    old = {field: value for field, value in new.items() if field != "characters"}

    assert set(reference({"x": old}).bins) == {"x", "x: length"}
    with pytest.raises(InvalidInput, match="ST904"):
        of_sketches(reference({"x": new}), {"x": old})


def test_what_does_not_fit_is_refused():
    made = over(x=numbers([1.0, 2.0]), t=column(["a"] * 3, "string"))
    texts, fine = column(["a"], "string"), numbers([1.0])

    with pytest.raises(InvalidInput, match=r"ST901.*'x'"):
        profile(made, {"t": texts})
    with pytest.raises(InvalidInput, match="ST901"):
        of_sketches(made, {})
    with pytest.raises(InvalidInput, match=r"ST902.*holds text now, and training had number"):
        profile(made, {"x": texts, "t": texts})
    with pytest.raises(InvalidInput, match="ST905"):
        profile(made, {"x": numbers([1.0, 2.0]), "t": texts})
    for codes in (np.array([1]), np.array([-1]), np.array([0.5])):
        with pytest.raises(InvalidInput, match="ST905"):
            profile(made, {"x": fine, "t": Codes(codes=codes, valid=np.ones(1, bool), categories=("a",))})
    with pytest.raises(InvalidInput, match="ST903"):
        Profile.empty(made) + Profile.empty(over(x=fine))
    with pytest.raises(InvalidInput, match="ST906"):
        Profile.from_document(made.document())
    with pytest.raises(InvalidInput, match="ST906"):
        Reference.from_document({})
    s = sketch(np.array(["a"], object), np.ones(1, bool), "text")
    for asked in (
        {"centred": ["t"]},
        {"centred": ["gone"]},
        {"vectors": {"t": np.empty((0, 3))}},
        {"vectors": {"t": np.array([[np.nan]])}},
        {"vectors": {"gone": np.ones((1, 1))}},
        {"clusters": 0},
    ):
        with pytest.raises(InvalidInput, match="ST900"):
            reference({"t": s}, **asked)


def test_segments_that_do_not_fit_are_refused():
    made, window = over(x=numbers([1.0, 2.0])), {"x": numbers([1.0, 2.0])}

    for segment in (np.array([0]), np.array([0, 2]), np.array([-1, 0]), np.array([[0, 1]])):
        with pytest.raises(InvalidInput, match="ST905"):
            by_segment(made, window, segment, 2)
    assert [one.rows for one in by_segment(made, {"x": numbers([])}, np.array([], int), 2)] == [0, 0]


def test_no_rows_and_no_columns_are_fine():
    made = over(x=numbers([]), t=column([], "string"))

    assert profile(made, {"x": numbers([]), "t": column([], "string")}) == Profile.empty(made)
    assert profile(over(), {}).rows == 0
    assert of_sketches(over(), {}).rows == 0


def test_a_profile_stays_small_however_much_it_has_seen():
    rng = np.random.default_rng(7)
    window = {f"n{at}": numbers(rng.normal(at, 1, 1_000)) for at in range(50)}
    one = profile(over(**window), window)

    total = Profile(reference=one.reference, rows=10**12, counts={n: c * 10**9 for n, c in one.counts.items()})

    assert 20 * len(canonical_json(total.document())) < 1_000_000
