"""MLflow's scoring protocol, as `mlflow models serve` has it under `/invocations`.

A body holds one of `dataframe_split`, `dataframe_records`, `inputs` (columns by name, or a list of rows) and `instances`
(a list of rows), or is a CSV file with a header. Rows without names get those of the features, in their order.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from staytrue.serve.problem import Problem, fault, shown

__all__ = ["Row", "answer", "rows"]

Row: TypeAlias = dict[str, Any]

_FORMS: Final = ("dataframe_split", "dataframe_records", "inputs", "instances")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NO_TYPES: Final[Mapping[str, str]] = MappingProxyType({})


def rows(
    body: bytes,
    content_type: str,
    features: Sequence[str],
    types: Mapping[str, str] = _NO_TYPES,
    *,
    most_rows: int = 1 << 16,
) -> list[Row] | Problem:
    """The rows of a request, or why there are none.

    Problems: 400 not readable, 415 another content type, 422 not of the protocol, or more rows than `most_rows`.

    Args:
        content_type: the header as sent; empty is JSON.
        features: names for values that come without.
        types: of columns, as `store/frames.py` names them: a CSV cell of a `string` column stays a text.

    Example:
        >>> rows(b'{"inputs": {"x": [1, 2], "y": ["a", "b"]}}', "application/json", [])
        [{'x': 1, 'y': 'a'}, {'x': 2, 'y': 'b'}]
        >>> rows(b'{"instances": [[1, "a"]]}', "", ["x", "y"])
        [{'x': 1, 'y': 'a'}]
        >>> rows(b'{"instances": [[1]]}', "", ["x", "y"]).detail
        "'instances': row 0 has 1 value, expected 2: x, y."
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "text/csv":
            return _csv(body, types, most_rows)
        if kind not in {"", "application/json"}:
            detail = f"Can't read {shown(kind)}: /invocations takes application/json and text/csv."
            return Problem(status=415, code="ST735", detail=detail)
        return _json(body, features, most_rows)
    except _WrongError as wrong:
        return wrong.problem


def answer(answers: bytes, ids: Sequence[str] = ()) -> bytes:
    """The response to a request.

    Args:
        answers: JSON text of a list, as a lane gives it.
        ids: of the predictions, to send their labels by; MLflow's own clients read past it.

    Example:
        >>> answer(b"[1,2]")
        b'{"predictions":[1,2]}'
    """
    return b'{"predictions":' + answers + (b',"ids":' + _encode(ids) if ids else b"") + b"}"


class _WrongError(Exception):
    """The request is not as the protocol has it."""

    def __init__(self, detail: str, *, code: str = "ST731", status: int = 422, **known: Any) -> None:
        super().__init__(detail)
        faults = (fault(detail, **known),) if known else ()
        self.problem = Problem(status=status, code=code, detail=detail, errors=faults)


def _json(body: bytes, features: Sequence[str], most_rows: int) -> list[Row]:
    try:
        document = _decode(body)
    except (ValueError, RecursionError) as exc:
        raise _WrongError(f"The body is not JSON: {str(exc)[:120]}.", code="ST730", status=400) from None
    if not isinstance(document, dict):
        raise _WrongError(f"The body is {_kind(document)}, expected an object with one of {', '.join(_FORMS)}.")
    given = [name for name in _FORMS if name in document]
    unknown = [name for name in document if name not in _FORMS and name != "params"]
    if len(given) != 1 or unknown:
        got = ", ".join(str(shown(name)) for name in list(document)[:8]) or "nothing"
        raise _WrongError(f"The body has {got}; expected exactly one of {', '.join(_FORMS)}.")
    if document.get("params"):
        raise _WrongError(
            "'params' has something in it, but this app takes no parameters. Leave it out.", field="params"
        )
    (form,) = given
    # Counted before a dict is made of each: two bytes of a request can be a row.
    _check_count(_count(document[form]), most_rows)
    return _READERS[form](form, document[form], features)


def _split(form: str, value: Any, features: Sequence[str]) -> list[Row]:
    """`{"columns": [...], "index": [...], "data": [[...], ...]}`."""
    unknown = set(value) - {"columns", "index", "data"} if isinstance(value, dict) else set()
    if not isinstance(value, dict) or unknown or "data" not in value:
        raise _WrongError(f"'{form}': expected an object with 'columns', 'data' and perhaps 'index'.", field=form)
    names = value.get("columns")
    if names is None:
        return _list(form, value["data"], features)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        wrong = next((name for name in names if not isinstance(name, str)), None) if isinstance(names, list) else names
        raise _WrongError(
            f"'{form}': 'columns' has {_kind(wrong)} where a name belongs. Give the frame's columns names.",
            field="columns", got=shown(wrong), expected="a list of texts",
        )  # fmt: skip
    twice = _repeated(names)
    if twice is not None:
        raise _WrongError(f"'{form}': two columns are named {shown(twice)!r}.", field=shown(twice))
    if not isinstance(value["data"], list):
        raise _WrongError(f"'{form}': 'data' is {_kind(value['data'])}, expected a list of rows.", field="data")
    return [_named(form, i, row, names) for i, row in enumerate(value["data"])]


def _records(form: str, value: Any, _features: Sequence[str]) -> list[Row]:
    """`[{column: value}, ...]`."""
    if not isinstance(value, list):
        raise _WrongError(f"'{form}' is {_kind(value)}, expected a list of objects.", field=form)
    for i, row in enumerate(value):
        if not isinstance(row, dict):
            raise _WrongError(f"'{form}': row {i} is {_kind(row)}, expected an object.", row=i, got=shown(row))
    return value


def _list(form: str, value: Any, features: Sequence[str]) -> list[Row]:
    """`[{...}, ...]`, `[[...], ...]`, or for one feature `[value, ...]`."""
    if not isinstance(value, list):
        raise _WrongError(f"'{form}' is {_kind(value)}, expected a list of rows.", field=form)
    if value and isinstance(value[0], dict):
        return _records(form, value, features)
    if value and not isinstance(value[0], list) and len(features) == 1:
        # A list in it has two meanings; the first row has chosen one.
        return [_named(form, i, [row], features) for i, row in enumerate(value)]
    return [_named(form, i, row, features) for i, row in enumerate(value)]


def _inputs(form: str, value: Any, features: Sequence[str]) -> list[Row]:
    """`{column: [value, ...]}`, or as `instances`."""
    if not isinstance(value, dict):
        return _list(form, value, features)
    columns: dict[str, list[Any]] = {}
    for name, values in value.items():
        if not isinstance(values, list):
            raise _WrongError(
                f"'{form}': column {shown(name)!r} is {_kind(values)}, expected a list of values.",
                field=shown(name), got=shown(values), expected="a list of values",
            )  # fmt: skip
        # numpy's (n, 1) means a column of n.
        flat = bool(values) and all(isinstance(each, list) and len(each) == 1 for each in values)
        columns[name] = [each[0] for each in values] if flat else values
    first = next(iter(columns), "")
    other = next((name for name in columns if len(columns[name]) != len(columns[first])), None)
    if other is not None:
        raise _WrongError(
            f"'{form}': column {shown(other)!r} has {len(columns[other])} values, {shown(first)!r} has {len(columns[first])}.",
            field=shown(other), got=len(columns[other]), expected=len(columns[first]),
        )  # fmt: skip
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


_Reader: TypeAlias = Callable[[str, Any, Sequence[str]], list[Row]]
_READERS: Final[Mapping[str, _Reader]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "inputs": _inputs,
    "instances": _list,
}


def _count(value: Any) -> int:
    """How many rows it would be."""
    if isinstance(value, dict):
        return max((len(values) for values in value.values() if isinstance(values, list)), default=0)
    return len(value) if isinstance(value, list) else 0


def _check_count(count: int, most_rows: int) -> None:
    if count > most_rows:
        raise _WrongError(f"The request has more than {most_rows:,} rows. Send them in several requests.", code="ST736")


def _named(form: str, i: int, row: Any, names: Sequence[str]) -> Row:
    if not isinstance(row, list):
        raise _WrongError(
            f"'{form}': row {i} is {_kind(row)}, expected a list of {len(names)} values.", row=i, got=shown(row)
        )
    if len(row) != len(names):
        listed = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
        many = "1 value" if len(row) == 1 else f"{len(row)} values"
        raise _WrongError(
            f"'{form}': row {i} has {many}, expected {len(names)}: {shown(listed)}.",
            row=i, fault="missing" if len(row) < len(names) else "extra", got=len(row), expected=len(names),
        )  # fmt: skip
    return dict(zip(names, row, strict=True))


def _csv(body: bytes, types: Mapping[str, str], most_rows: int) -> list[Row]:
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        names = next(reader, [])
        lines = list(islice((line for line in reader if line), most_rows + 1))
    except (UnicodeDecodeError, csv.Error) as exc:
        raise _WrongError(f"The body is not CSV in UTF-8: {str(exc)[:120]}.", code="ST730", status=400) from None
    if not names:
        raise _WrongError("The CSV is empty; expected a first line with the columns' names.")
    _check_count(len(lines), most_rows)
    twice = _repeated(names)
    if twice is not None:
        raise _WrongError(f"Two columns of the CSV are named {shown(twice)!r}.", field=shown(twice))
    cells = [_named("csv", i, line, names) for i, line in enumerate(lines)]
    return [{name: _cell(cell, types.get(name)) for name, cell in row.items()} for row in cells]


def _cell(text: str, type_name: str | None) -> Any:
    """A cell as JSON would have had it; what it can't be stays a text, for the contract to name."""
    if text == "":
        return None
    if type_name is not None and (type_name == "string" or type_name.startswith(("date", "timestamp"))):
        return text
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return text[0] in "tT"
    for read in (int, float):
        try:
            # Neither "1_000" nor a number of more digits than any column holds.
            number = read(text) if len(text) <= 400 and "_" not in text else None
        except ValueError:
            continue
        return number if number is not None and math.isfinite(number) else text
    return text


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that stands a second time."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return words.get(type(value), "null")
