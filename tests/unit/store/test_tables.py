"""Tables: versions of a source made of immutable parts; no step reads more than it must."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound
from staytrue.kernel.contract import SourceSpec
from staytrue.store import tables
from staytrue.store.frames import schema, to_pydict, to_rows
from staytrue.store.objects import LocalObjects, digest, manifest

SPEC = SourceSpec(name="bookings", time="at", key="id", label="rate")
DAY = timedelta(days=1)
START = datetime(2026, 1, 30, tzinfo=UTC)


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path)


def day(number, rates=(10.0, 20.0), hours=(1, 13)):
    """(rows, window) of one day with a row for each rate."""
    since = START + number * DAY
    rows = [
        {"id": f"{number}-{i}", "at": since + timedelta(hours=hour), "rate": rate, "nights": number}
        for i, (rate, hour) in enumerate(zip(rates, hours, strict=True))
    ]
    return to_rows(rows, doing="fetch"), (since, since + DAY)


def table_of(objects, numbers, **options):
    table = tables.empty(SPEC)
    for number in numbers:
        table = tables.append(table, tables.make_part(objects, *day(number, **options), SPEC))
    return table


def test_a_table_comes_back_as_it_was_saved(objects):
    table = table_of(objects, range(4), rates=(1.0, None))

    loaded = tables.load(LocalObjects(objects.root), tables.save(objects, table))

    assert loaded == table
    assert loaded.id == table.id
    assert (loaded.rows, loaded.unlabelled) == (8, 4)
    assert (loaded.since, loaded.until) == (START, START + 4 * DAY)
    assert [chunk.month for chunk in loaded.chunks] == ["2026-01", "2026-02"]
    assert to_pydict(tables.read(objects, loaded, ["nights"])) == {"nights": [0, 0, 1, 1, 2, 2, 3, 3]}


def test_the_order_of_appends_and_of_rows_does_not_matter(objects):
    rows, window = day(1)
    reverse = to_rows(
        list(
            reversed(
                [dict(zip(rows.column_names, r, strict=True)) for r in zip(*to_pydict(rows).values(), strict=True)]
            )
        ),
        doing="x",
    )

    table = tables.append(table_of(objects, [2, 0]), tables.make_part(objects, reverse, window, SPEC))

    assert table == table_of(objects, range(3))
    assert to_pydict(tables.read(objects, table)) == to_pydict(tables.read(objects, table_of(objects, range(3))))


def test_the_id_covers_the_rows_and_not_the_parquet(objects):
    table = table_of(objects, range(2))
    part = table.parts[1]

    other_bytes = tables.correct(table, tables.replace(part, object=digest(b"another writer")))
    other_rows = tables.correct(table, tables.make_part(objects, *day(1, rates=(10.0, 21.0)), SPEC))

    assert other_bytes.id == table.id
    assert other_bytes != table
    assert other_rows.id != table.id


def test_an_append_writes_the_chunk_of_its_month_and_no_other(objects):
    table = table_of(objects, range(35))
    tables.save(objects, table)
    part = tables.make_part(objects, *day(35), SPEC)
    before = {stored.digest for stored in objects.list()}

    tables.save(objects, tables.append(table, part))

    new = [objects.get_document(stored.digest) for stored in objects.list() if stored.digest not in before]
    assert sorted(document["kind"] for document in new) == ["parts", "table", "table identity"]
    assert {document.get("month") for document in new} == {None, "2026-03"}


def test_a_part_that_overlaps_is_a_conflict(objects):
    table = table_of(objects, range(3))
    for number, length in ((1, DAY), (0, 60 * DAY), (2, timedelta(hours=1))):
        window = (START + number * DAY, START + number * DAY + length)
        with pytest.raises(Conflict, match="ST212"):
            tables.append(table, tables.make_part(objects, day(number)[0], window, SPEC))


def test_a_correction_is_a_new_version_and_the_old_one_stays_loadable(objects):
    old = table_of(objects, range(3), rates=(1.0, None))
    saved = tables.save(objects, old)

    new = tables.correct(old, tables.make_part(objects, *day(1, rates=(1.0, 7.0)), SPEC))
    tables.save(objects, new)

    assert tables.load(objects, saved) == old
    assert (old.unlabelled, new.unlabelled) == (3, 2)
    assert to_pydict(tables.read(objects, new, ["rate"]))["rate"] == [1.0, None, 1.0, 7.0, 1.0, None]
    with pytest.raises(NotFound, match="ST213"):
        tables.correct(old, tables.make_part(objects, *day(9), SPEC))


def test_a_window_is_the_same_parts_and_cuts_at_most_two(objects):
    table = table_of(objects, range(6))

    whole = tables.window(objects, table, START + DAY, START + 5 * DAY)
    cut = tables.window(objects, table, START + timedelta(hours=12), START + 4 * DAY + timedelta(hours=12))

    assert whole.parts == table.parts[1:5]
    assert cut.parts[1:-1] == table.parts[1:4]
    assert [part.rows for part in cut.parts] == [1, 2, 2, 2, 1]
    assert (cut.since, cut.until) == (START + timedelta(hours=12), START + 4 * DAY + timedelta(hours=12))
    assert to_pydict(tables.read(objects, cut, ["id"]))["id"] == [
        "0-1",
        "1-0",
        "1-1",
        "2-0",
        "2-1",
        "3-0",
        "3-1",
        "4-0",
    ]
    assert tables.window(objects, table, START - DAY, START + 9 * DAY) == table
    assert tables.window(objects, table, START - 9 * DAY, START - DAY).parts == ()


def test_a_part_cut_into_the_next_month_joins_the_chunk_of_that_month(objects):
    spec = SourceSpec(name="bookings", time="at", key="id", label="rate", every=7 * DAY)
    table = tables.append(tables.empty(spec), tables.make_part(objects, day(0)[0], (START, START + 7 * DAY), spec))
    table = tables.append(table, tables.make_part(objects, day(8)[0], (START + 7 * DAY, START + 14 * DAY), spec))

    cut = tables.window(objects, table, START + 3 * DAY, START + 14 * DAY)

    assert [chunk.month for chunk in cut.chunks] == ["2026-02"]
    assert tables.load(objects, tables.save(objects, cut)) == cut


def test_a_window_that_is_naive_or_reversed_is_refused(objects):
    for window in ((START, START), (START + DAY, START), (datetime(2026, 1, 1), START)):
        with pytest.raises(InvalidInput, match="ST211"):
            tables.make_part(objects, day(0)[0], window, SPEC)


def test_a_part_is_made_like_the_table_where_nothing_is_lost(objects):
    table = table_of(objects, [0])
    rows = to_rows([{"extra": 1, "nights": 1.0, "rate": 7, "at": START + DAY, "id": "1-0"}], doing="fetch")

    part = tables.make_part(objects, rows, (START + DAY, START + 2 * DAY), SPEC, like=table.schema)

    assert part.schema == table.schema
    assert to_pydict(tables.read(objects, tables.append(table, part), ["nights", "rate"])) == {
        "nights": [0, 0, 1],
        "rate": [10.0, 20.0, 7.0],
    }
    with pytest.raises(InvalidInput, match="ST214"):
        tables.append(table, tables.make_part(objects, rows, (START + DAY, START + 2 * DAY), SPEC))


def test_a_column_that_was_null_takes_the_type_that_comes_later(objects):
    first, later = day(0, rates=(None, None)), day(1)

    table = table_of(objects, [])
    table = tables.append(table, tables.make_part(objects, *first, SPEC))
    table = tables.append(table, tables.make_part(objects, *later, SPEC, like=table.schema))

    assert dict(table.schema)["rate"] == "float64"
    assert to_pydict(tables.read(objects, table, ["rate"]))["rate"] == [None, None, 10.0, 20.0]


def test_windows_in_which_nothing_came_are_parts_too(objects):
    nothing = tables.make_part(objects, to_rows([], doing="fetch"), (START, START + DAY), SPEC)

    table = tables.append(tables.empty(SPEC), nothing)
    assert tables.read(objects, table).shape == (0, 0)
    table = tables.append(table, tables.make_part(objects, *day(1), SPEC))

    assert tables.load(objects, tables.save(objects, table)) == table
    assert tables.read(objects, table).num_rows == 2
    empty_window = tables.window(objects, table, START, START + DAY)
    assert schema(tables.read(objects, empty_window)) == table.schema


def test_a_window_without_rows_is_the_same_part_with_or_without_columns(objects):
    rows, window = day(1, rates=(), hours=())
    like = tables.make_part(objects, *day(0), SPEC).schema
    columns = {"id": [], "at": [], "rate": [], "nights": []}

    bare = tables.make_part(objects, rows, window, SPEC, like=like)

    assert rows.num_columns == 0
    assert bare == tables.make_part(objects, to_rows(columns, doing="fetch"), window, SPEC, like=like)
    assert (bare.rows, bare.schema) == (0, like)


def test_a_snapshot_needs_neither_time_nor_key(objects):
    spec = SourceSpec(name="docs", time=None, key=None, snapshot=True)
    rows = to_rows({"path": ["b", "a"], "text": ["x", "y"]}, doing="fetch")

    table = tables.append(tables.empty(spec), tables.make_part(objects, rows, (START, START + DAY), spec))

    assert to_pydict(tables.read(objects, table))["path"] == ["a", "b"]
    assert tables.window(objects, table, START + DAY, START + 2 * DAY) is table


def test_what_comes_back_from_the_store_is_checked(objects):
    table = table_of(objects, [0])
    path = objects.root / "objects" / table.parts[0].object[:2] / table.parts[0].object[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(Corrupt):
        tables.read(objects, table)
    with pytest.raises(Corrupt, match="ST216"):
        tables.load(objects, objects.put_document({"kind": "release"}))


def test_changes_are_counted_by_key_or_by_whole_rows(objects):
    old = tables.make_part(objects, *day(0, rates=(1.0, 2.0, None), hours=(1, 2, 3)), SPEC)
    new = tables.make_part(objects, *day(0, rates=(1.0, 5.0, 3.0, 4.0), hours=(1, 2, 3, 4)), SPEC)

    assert tables.changes(objects, old, old, key="id") == tables.Changes()
    assert tables.changes(objects, old, new, key="id") == tables.Changes(added=1, changed=2)
    assert tables.changes(objects, new, old, key="id") == tables.Changes(removed=1, changed=2)
    assert tables.changes(objects, old, new, key=None) == tables.Changes(added=3, removed=2)


def test_a_diff_counts_rows_by_window_and_tells_which_column_moved(objects):
    a = table_of(objects, range(5))
    b = tables.correct(
        tables.window(objects, a, START + DAY, START + 5 * DAY),
        tables.make_part(objects, *day(2, rates=(10.0, 99.0)), SPEC),
    )
    b = tables.append(b, tables.make_part(objects, *day(7), SPEC))

    told = tables.diff(objects, a, b)

    assert told["rows"] == {"a": 10, "b": 10, "added": 2, "removed": 2, "changed": 1}
    assert [(w["added"], w["removed"], w["changed"]) for w in told["windows"]] == [(0, 2, 0), (0, 0, 1), (2, 0, 0)]
    assert told["schema"] == {"added": {}, "removed": {}, "changed": {}}
    assert 0 < told["columns"]["nights"]["moved"] < 1
    assert told["columns"]["rate"]["b"]["max"] == 99.0
    assert json.loads(json.dumps(told)) == told
    assert tables.diff(objects, a, a)["windows"] == []


def test_a_diff_of_a_cut_border_counts_only_the_rows_that_left(objects):
    a = table_of(objects, range(3))
    b = tables.window(objects, a, START + timedelta(hours=12), START + 3 * DAY)

    assert tables.diff(objects, a, b)["rows"] == {"a": 6, "b": 5, "added": 0, "removed": 1, "changed": 0}


def test_a_diff_without_corrections_reads_no_rows(objects):
    a, b = table_of(objects, range(5)), table_of(objects, range(2, 8))
    for part in {*a.parts, *b.parts}:
        objects.delete(part.object)
        objects.destroy(part.object)

    assert tables.diff(objects, a, b)["rows"] == {"a": 10, "b": 12, "added": 6, "removed": 4, "changed": 0}


def test_history_is_what_the_newest_windows_held(objects):
    table = table_of(objects, range(6))

    held = tables.history(objects, table, last=3)

    assert [window.quartiles["nights"][1] for window in held] == [3.0, 4.0, 5.0]
    assert [window.rows for window in held] == [2, 2, 2]


def test_documents_refer_to_objects_and_to_nothing_that_only_looks_like_one(objects):
    """gc frees nothing while something referred to is missing, so a user's own hashes must not look like references."""
    hashes = [digest(text) for text in (b"a", b"b")]
    rows = to_rows({"id": hashes, "at": [START] * 2, "rate": [1.0, 2.0], hashes[0]: hashes}, doing="fetch")
    table = tables.append(tables.empty(SPEC), tables.make_part(objects, rows, (START, START + DAY), SPEC))

    waiting, seen = [tables.save(objects, table), table.id], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        held = manifest(objects.get(name))
        waiting += held.references - seen if held else ()

    assert seen == {stored.digest for stored in objects.list()}
