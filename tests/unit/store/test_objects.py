"""Objects: named by content, checked at every read, written whole or not at all."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from staytrue.errors import Corrupt, InvalidInput, NotFound, Unavailable
from staytrue.kernel.release import Digest
from staytrue.store.objects import MANIFEST_LIMIT_BYTES, LocalObjects, digest, manifest

if TYPE_CHECKING:
    from pathlib import Path

ABSENT = Digest("0" * 64)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "store")


def file_of(objects: LocalObjects, name: Digest) -> Path:
    return objects.root / "objects" / name[:2] / name[2:]


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) + 1])
def test_bytes_come_back_as_they_were_put(objects: LocalObjects, size: int) -> None:
    data = os.urandom(size)

    name = objects.put(data)

    assert name == digest(data)
    assert objects.get(name) == data
    assert objects.has(name)
    assert [(stored.digest, stored.size_bytes) for stored in objects.list()] == [(name, size)]


def test_a_memoryview_of_any_shape_is_stored_as_its_bytes(objects: LocalObjects) -> None:
    flat, strided, shaped = b"abcdefgh", memoryview(b"abcdefgh")[::2], memoryview(b"abcdefgh").cast("B", (2, 4))

    assert objects.put(memoryview(flat)) == objects.put(shaped) == digest(flat)
    assert objects.put(strided) == digest(b"aceg")


def test_an_object_is_read_only_and_leaves_no_temporary_file(objects: LocalObjects) -> None:
    name = objects.put(b"x")

    assert list((objects.root / "tmp").iterdir()) == []
    if os.name != "nt":
        assert stat.S_IMODE(file_of(objects, name).stat().st_mode) == 0o444


def test_a_file_is_stored_under_the_digest_of_its_content_and_stays_where_it_is(
    objects: LocalObjects, tmp_path: Path
) -> None:
    data = os.urandom(3_000_001)
    path = tmp_path / "mine.bin"
    path.write_bytes(data)

    names = {objects.put_file(path), objects.put_file(path), objects.put(data)}

    assert names == {digest(data)}
    assert path.read_bytes() == data
    assert list((objects.root / "tmp").iterdir()) == []


def test_a_file_that_is_not_there_is_refused_by_name(objects: LocalObjects, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"ST409.*nowhere\.bin"):
        objects.put_file(tmp_path / "nowhere.bin")


@pytest.mark.parametrize("change", [b"other", b"hellp", b""], ids=["longer", "same size", "empty"])
def test_a_changed_object_is_never_read_and_is_healed_by_putting_it_again(objects: LocalObjects, change: bytes) -> None:
    name = objects.put(b"hello")
    damage(file_of(objects, name), change)

    with pytest.raises(Corrupt, match="ST406"):
        objects.get(name)
    assert not objects.intact(name)

    objects.put(b"hello")
    assert objects.get(name) == b"hello"


def test_putting_again_makes_an_object_new_for_gc(objects: LocalObjects) -> None:
    name = objects.put(b"x")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    os.utime(file_of(objects, name), (long_ago.timestamp(),) * 2)
    assert next(objects.list()).changed_at == long_ago

    objects.put(b"x")

    assert datetime.now(UTC) - next(objects.list()).changed_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "name", ["", "ab", "../../etc/passwd", "G" * 64, "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 65]
)
def test_what_is_not_a_digest_never_becomes_a_path(objects: LocalObjects, name: str) -> None:
    calls = [objects.get, objects.has, objects.delete, objects.peek, objects.restore, objects.destroy, objects.intact]

    for call in calls:
        with pytest.raises(InvalidInput, match="ST404"):
            call(Digest(name))


def test_an_object_that_is_not_there_is_not_found(objects: LocalObjects) -> None:
    assert not objects.has(ABSENT)
    assert not objects.delete(ABSENT)
    assert not objects.restore(ABSENT)
    for call in (objects.get, objects.peek):
        with pytest.raises(NotFound, match="ST405"):
            call(ABSENT)


def test_a_deleted_object_is_absent_until_somebody_reads_it(objects: LocalObjects) -> None:
    name = objects.put(b"x")

    assert objects.delete(name)

    assert not objects.has(name)
    assert [stored.digest for stored in objects.trashed()] == [name]
    assert list(objects.list()) == []
    assert objects.get(name) == b"x"
    assert objects.has(name)
    assert list(objects.trashed()) == []


def test_an_object_put_since_the_last_look_is_not_deleted(objects: LocalObjects) -> None:
    name = objects.put(b"x")

    assert not objects.delete(name, unless_put_since=datetime.now(UTC) - timedelta(hours=1))

    assert objects.has(name)
    assert list(objects.trashed()) == []


def test_equal_documents_are_one_object(objects: LocalObjects) -> None:
    name = objects.put_document({"kind": "table", "parts": [1, 2]})

    assert objects.put_document({"parts": [1, 2], "kind": "table"}) == name
    assert objects.get_document(name) == {"kind": "table", "parts": [1, 2]}
    assert objects.get(name) == b'{"kind":"table","parts":[1,2]}'


@pytest.mark.parametrize("document", [{}, {"kind": ""}, {"kind": 1}, {"kind": "x", "y": "z" * MANIFEST_LIMIT_BYTES}])
def test_a_document_says_what_it_is_and_is_not_huge(objects: LocalObjects, document: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="ST407"):
        objects.put_document(document)


@pytest.mark.parametrize("data", [b"PAR1", b"[]", b"{}", b'{"kind": 3}', b"\xff"])
def test_an_object_that_is_no_document_is_not_read_as_one(objects: LocalObjects, data: bytes) -> None:
    name = objects.put(data)

    with pytest.raises(InvalidInput, match="ST408"):
        objects.get_document(name)


def test_every_digest_anywhere_in_a_document_is_a_reference() -> None:
    a, b, c = (digest(bytes([i])) for i in range(3))
    nested = f'{{"kind":"t","x":[{{"y":"{a}"}}],"{b}":1,"z":"no {c}"}}'.encode()

    found = manifest(nested)

    assert found is not None
    assert found.references == {a, b}
    assert not found.canonical  # its keys are not sorted
    assert manifest(b'{"kind":"t"' + b"[" * 100_000) is None


def test_unfinished_writes_are_swept_once_they_are_old(objects: LocalObjects) -> None:
    objects.put(b"x")
    left = objects.root / "tmp" / "1-dead"
    left.write_bytes(b"12345")
    now = datetime.now(UTC)

    assert objects.sweep(before=now - timedelta(hours=1)) == 0
    assert objects.sweep(before=now + timedelta(hours=1), dry_run=True) == 5
    assert left.exists()
    assert objects.sweep(before=now + timedelta(hours=1)) == 5
    assert not left.exists()


def test_a_store_that_can_not_be_written_is_unavailable_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, where a directory should be")

    with pytest.raises(Unavailable, match=r"ST403 Can't store object .*Check the disk"):
        LocalObjects(tmp_path / "store").put(b"x")
