"""Records: what stands in the payloads of segments, and the same as Arrow rows.

A record of predictions is one micro-batch: u32 length of BODY | BODY | ANSWERS, both MessagePack. The front makes BODY and
sends it to the worker, which appends what it answered: so nothing is encoded twice. A record of labels is an array of
labels. As rows (for compaction and reading) a prediction is told by two whole numbers, the halves of its UUID; columns
that were logged have a `=` before their names, so that they never meet ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from staytrue.errors import Corrupt
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Column, Schema
from staytrue.kernel.traffic import Label
from staytrue.store import frames
from staytrue.store.block import Block, Layout
from staytrue.store.segment import Segment

__all__ = [
    "LABEL_SCHEMA",
    "LOGGED",
    "answered",
    "json_text",
    "label_rows",
    "moments",
    "pack_answers",
    "pack_body",
    "pack_labels",
    "prediction_rows",
    "row_columns",
    "texts_of",
]

LOGGED: Final = "="
"""Before the name of a column as the request gave it."""

LABEL_SCHEMA: Final[Schema] = (
    ("id_hi", "int64"),
    ("id_lo", "int64"),
    ("key", "string"),
    ("number", "float64"),
    ("text", "string"),
    ("at", "timestamp[UTC]"),
    ("got", "timestamp[UTC]"),
    ("source", "string"),
)
"""A label is `number`, or the canonical JSON `text` of anything else; both null: the label was taken back."""

_SLICE_BYTES: Final = 8 << 20
_U32: Final = Struct("<I")
_encode: Final = msgspec.msgpack.Encoder().encode
_Body = tuple[int, int, str, float, list[tuple[bytes, int]], list[tuple[int, str]], memoryview]
_BODY: Final = msgspec.msgpack.Decoder(_Body)
_ANSWERS: Final = msgspec.msgpack.Decoder(list[bytes | None])
_LABELS: Final = msgspec.msgpack.Decoder(list[tuple[bytes | None, str | int | None, Any, int, int, str]])
_MOMENT: Final = msgspec.msgpack.Decoder(
    tuple[int, int, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw]
)
_FRAME: Final = msgspec.msgpack.Decoder(
    tuple[int, int, str, float, list[tuple[msgspec.Raw, int]], msgspec.Raw, msgspec.Raw]
)
_NUMBERS: Final = msgspec.json.Decoder(list[float | None])
_TEXTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_BIG_ENDIAN: Final = np.dtype(">u8")


# -- out --------------------------------------------------------------------------------------------------------------


def pack_body(
    *,
    seq: int,
    at_us: int,
    arm: str,
    block: bytes,
    requests: Sequence[tuple[bytes, int]],
    weight: float = 1.0,
    flags: Sequence[tuple[int, str]] = (),
) -> bytes:
    """The BODY of one micro-batch.

    Args:
        seq: the front's number of the batch. at_us: when it was admitted, microseconds since 1970 UTC.
        block: its rows, `Block.pack()`. requests: (id of the first row, number of rows) of each request, in the order of
            the rows; the other rows' ids count on from the first.
        weight: 1 / probability of being logged. flags: (row in the batch, what about it).
    """
    return _encode((seq, at_us, arm, weight, requests, flags, block))


def pack_answers(answers: Sequence[bytes | None]) -> bytes:
    """The ANSWERS of one micro-batch: for each request a JSON array of its answers, or None when the app refused it."""
    return _encode(answers)


def pack_labels(labels: Iterable[Label]) -> bytes:
    """The payload of one record of labels."""
    return _encode(list(labels))


# -- predictions ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Arm:
    """The batches of one arm, column by column."""

    ids: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    flags: list[tuple[int, str]] = field(default_factory=list)
    rows: int = 0


def prediction_rows(segment: Segment) -> Iterator[tuple[str, frames.Rows]]:
    """The predictions in a segment: (arm, rows) slice by slice, as they were written; repeated ones are repeated.

    Columns: id_hi and id_lo (the bits of the UUID as int64), at, weight, flags, answer (float64 when all of the slice are
    numbers, else canonical JSON text), then the logged ones.

    Raises:
        Corrupt: ST712, a record has the right CRC and is no batch of predictions.
    """
    if segment.header is None:
        return
    try:
        layout = Layout(tuple((name, kind) for name, kind in segment.header["columns"]))
        for payloads in _slices(segment.payloads):
            arms: dict[str, _Arm] = defaultdict(_Arm)
            for payload in payloads:
                _add(arms, layout, payload)
            for arm, found in arms.items():
                if found.rows:
                    yield arm, _rows_of(found, layout)
    except (Corrupt, ValueError, KeyError, msgspec.MsgspecError, StructError) as exc:
        raise _unreadable(segment, "predictions", exc) from exc


def _slices(payloads: list[memoryview]) -> Iterator[list[memoryview]]:
    # As Python objects, ids and answers of single rows take ten times their bytes: a slice at a time.
    held: list[memoryview] = []
    size = 0
    for payload in payloads:
        held.append(payload)
        size += len(payload)
        if size >= _SLICE_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def row_columns(schema: Iterable[tuple[str, str]]) -> Schema:
    """The logged columns among those of `prediction_rows`, under their own names.

    Example:
        >>> row_columns([("id_hi", "int64"), ("=id_hi", "string")])
        (('id_hi', 'string'),)
    """
    return tuple((name.removeprefix(LOGGED), kind) for name, kind in schema if name.startswith(LOGGED))


def moments(segment: Segment) -> set[int]:
    """When the batches in a segment were admitted, microseconds since 1970 UTC; read without their rows.

    Raises:
        Corrupt: ST712, as `prediction_rows`.
    """
    try:
        return {_MOMENT.decode(_body(payload)[0])[1] for payload in segment.payloads}
    except (ValueError, msgspec.MsgspecError, StructError) as exc:
        raise _unreadable(segment, "predictions", exc) from exc


def answered(segment: Segment) -> Iterator[tuple[int, str, int]]:
    """(when it was admitted, arm, rows answered) of each batch in a segment of predictions; read without its rows.

    Raises:
        Corrupt: ST712, as `prediction_rows`.
    """
    try:
        for payload in segment.payloads:
            body, answers = _body(payload)
            _, at_us, arm, _, requests, *_ = _FRAME.decode(body)
            given = _ANSWERS.decode(answers)
            yield at_us, arm, sum(n for (_, n), text in zip(requests, given, strict=True) if text is not None)
    except (ValueError, msgspec.MsgspecError, StructError) as exc:
        raise _unreadable(segment, "predictions", exc) from exc


def _body(payload: memoryview) -> tuple[memoryview, memoryview]:
    (length,) = _U32.unpack_from(payload)
    start = _U32.size
    return payload[start : start + length], payload[start + length :]


def _add(arms: dict[str, _Arm], layout: Layout, payload: memoryview) -> None:
    body, answers = _body(payload)
    _, at_us, arm, weight, requests, flags, packed = _BODY.decode(body)
    block = layout.unpack(packed)
    given = _ANSWERS.decode(answers)
    found = arms[arm]
    if len(given) != len(requests) or sum(n for _, n in requests) != block.n:
        raise ValueError(f"{len(given)} answers to {len(requests)} requests, {block.n} rows")
    for (first, n), text in zip(requests, given, strict=True):
        found.ids.append(first)
        found.counts.append(n)
        found.refused.append(text is None)
        if text is not None:
            found.texts.append(text)
    found.flags += [(found.rows + row, said) for row, said in flags]
    found.sizes.append(block.n)
    found.at.append(at_us)
    found.weight.append(weight)
    found.blocks.append(block)
    found.rows += block.n


def _rows_of(found: _Arm, layout: Layout) -> frames.Rows:
    counts = np.array(found.counts, np.int64)
    firsts = np.frombuffer(b"".join(found.ids), _BIG_ENDIAN).astype(np.uint64).reshape(len(counts), 2)
    within = np.arange(found.rows) - np.repeat(np.cumsum(counts) - counts, counts)
    hi = np.repeat(firsts[:, 0], counts).view(np.int64)
    lo = (np.repeat(firsts[:, 1], counts) + within.astype(np.uint64)).view(np.int64)
    every = np.ones(found.rows, np.bool_)
    columns = {
        "id_hi": Column(type="int64", values=hi, valid=every),
        "id_lo": Column(type="int64", values=lo, valid=every),
        "at": Column(type="timestamp[UTC]", values=np.repeat(np.array(found.at, np.int64), found.sizes), valid=every),
        "weight": Column(type="float64", values=np.repeat(np.array(found.weight), found.sizes), valid=every),
        "flags": _flags(found.flags, found.rows),
    }
    logged = {LOGGED + name: column for name, column in layout.columns(_joined(found.blocks)).items()}
    kept = np.repeat(~np.array(found.refused), counts)
    answer = _answers(found.texts, int(kept.sum()))
    if not kept.all():
        columns, logged = (
            {name: Column(type=c.type, values=c.values[kept], valid=c.valid[kept]) for name, c in some.items()}
            for some in (columns, logged)
        )
    return frames.from_columns({**columns, "answer": answer, **logged})


def _joined(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    valid = None
    if any(block.valid is not None for block in blocks):
        valid = np.concatenate([np.ones(b.whole.shape, np.bool_) if b.valid is None else b.valid for b in blocks])
    return Block(
        n=sum(block.n for block in blocks),
        floats=np.concatenate([block.floats for block in blocks]),
        whole=np.concatenate([block.whole for block in blocks]),
        valid=valid,
        bools=np.concatenate([block.bools for block in blocks]),
        texts=[[v for part in parts for v in part] for parts in zip(*(block.texts for block in blocks), strict=True)],
        lists=[[v for part in parts for v in part] for parts in zip(*(block.lists for block in blocks), strict=True)],
    )


def _flags(flags: list[tuple[int, str]], n: int) -> Column:
    said = np.full(n, None, object)
    for row, text in flags:
        said[row] = text if said[row] is None else f"{said[row]}; {text}"
    return _texts(said)


def _answers(texts: list[bytes], n: int) -> Column:
    # One array of all: a decoder is called once a segment, not once a request.
    inner = (text.strip()[1:-1] for text in texts)
    whole = b"[" + b",".join(text for text in inner if text.strip()) + b"]"
    try:
        numbers = np.array(_NUMBERS.decode(whole), np.float64)
        column = Column(type="float64", values=numbers, valid=~np.isnan(numbers))
    except msgspec.ValidationError:
        column = texts_of(_TEXTS.decode(whole), lambda raw: json_text(msgspec.json.decode(raw)))
    if len(column.valid) != n:
        raise ValueError(f"{len(column.valid)} answers for {n} rows")
    return column


def texts_of(values: Sequence[Any], spelled: Callable[[Any], str | None]) -> Column:
    """The values as a column of texts; equal ones (few, often) are spelled once."""
    known: dict[Any, str | None] = {}
    made = np.full(len(values), None, object)
    for i, value in enumerate(values):
        key = bytes(value) if isinstance(value, msgspec.Raw) else value
        if key not in known:
            known[key] = spelled(value)
        made[i] = known[key]
    return _texts(made)


def json_text(value: Any) -> str | None:
    """The one spelling of a JSON value; None for null. 1 and 1.0 are one number.

    Example:
        >>> json_text(1), json_text("a"), json_text({"b": 1, "a": 2}), json_text(None)
        ('1.0', '"a"', '{"a":2,"b":1}', None)
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return canonical_json(value).decode()


# -- labels -----------------------------------------------------------------------------------------------------------


def label_rows(found: Sequence[Segment]) -> frames.Rows:
    """The labels in these segments, in the order in which they came (see `LABEL_SCHEMA`); repeated ones are repeated.

    Raises:
        Corrupt: ST712, a record has the right CRC and holds no labels.
    """
    labels: list[Label] = []
    for segment in found:
        try:
            labels += [Label(*one) for payload in segment.payloads for one in _LABELS.decode(payload)]
        except (TypeError, ValueError, msgspec.MsgspecError) as exc:
            raise _unreadable(segment, "labels", exc) from exc
    n = len(labels)
    every = np.ones(n, np.bool_)
    ids = np.frombuffer(b"".join(label.id or bytes(16) for label in labels), _BIG_ENDIAN).astype(np.uint64)
    halves = ids.reshape(n, 2)
    numbers = np.fromiter((_number(label.label) for label in labels), np.float64, n)
    texts = [None if _is_number(label.label) else json_text(label.label) for label in labels]
    return frames.from_columns(
        {
            "id_hi": Column(type="int64", values=halves[:, 0].view(np.int64), valid=every),
            "id_lo": Column(type="int64", values=halves[:, 1].view(np.int64), valid=every),
            "key": _texts([None if label.key is None else str(label.key) for label in labels]),
            "number": Column(type="float64", values=numbers, valid=~np.isnan(numbers)),
            "text": _texts(texts),
            "at": Column(type="timestamp[UTC]", values=np.array([x.at_us for x in labels], np.int64), valid=every),
            "got": Column(type="timestamp[UTC]", values=np.array([x.got_us for x in labels], np.int64), valid=every),
            "source": _texts([label.source for label in labels]),
        }
    )


def _texts(values: Sequence[str | None] | NDArray[Any]) -> Column:
    valid = np.fromiter((value is not None for value in values), np.bool_, len(values))
    return Column(type="string", values=np.array(values, object), valid=valid)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else np.nan


def _unreadable(segment: Segment, what: str, exc: Exception) -> Corrupt:
    return Corrupt(
        "ST712",
        f"Can't read {what} from the segment {segment.path.name}: {exc}. Run `staytrue verify`; keep the file.",
        segment=segment.path.name,
        cause=str(exc),
    )
