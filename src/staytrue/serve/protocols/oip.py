"""The Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it, with the binary tensors of Triton's clients.

Rows come as one tensor for each column, [n] or [n, 1] ([n, m] for a column of lists), or all of them as one tensor
[n, k] with the features in their order. Predictions go out as the tensor `predictions`, their ids, by which labels are
sent, as `ids`. The model's name is the app's, a version is a release. Shared memory is refused: a caller names no place
on the server.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeGuard

import msgspec

from staytrue.serve.problem import Headers, Problem, fault, shown

__all__ = [
    "IDS",
    "PREDICTIONS",
    "Request",
    "Row",
    "answer",
    "datatype_of",
    "error",
    "model_metadata",
    "release_of",
    "request",
    "server_metadata",
]

Row: TypeAlias = dict[str, Any]

PREDICTIONS: Final = "predictions"
IDS: Final = "ids"

_NUMBERS: Final[Mapping[str, str]] = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""datatype -> its sign in `struct`; BYTES is the one beside them."""
_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_DATATYPES: Final = frozenset({*_NUMBERS, "BYTES"})
_OF_TYPE: Final[Mapping[str, str]] = {
    "int64": "INT64",
    "uint64": "UINT64",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
}
_SHORTEST_VERSION: Final = 8
_JSON: Final = b"application/json"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NO_TYPES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked: rows, the caller's id for the request, and the wanted outputs, each with whether as binary."""

    rows: list[Row]
    id: str | None
    outputs: Mapping[str, bool]


def request(
    body: bytes,
    header_length: bytes | None,
    features: Sequence[str],
    types: Mapping[str, str] = _NO_TYPES,
    *,
    most_rows: int = 1 << 16,
) -> Request | Problem:
    """The request in a body, or why there is none.

    Problems: 400 not readable, 422 not of the protocol (it names the tensor), or more rows than `most_rows`.

    Args:
        header_length: the header `Inference-Header-Content-Length`: so much of the body is JSON, tensors follow.
        features: the columns of a tensor that holds all of them.
        types: of columns, as `store/frames.py` names them: a column of lists gets lists, of one value too.

    Example:
        >>> tensor = b'{"name": "x", "shape": [2], "datatype": "FP64", "data": [1.5, 2]}'
        >>> request(b'{"inputs": [' + tensor + b"]}", None, ["x"]).rows
        [{'x': 1.5}, {'x': 2.0}]
        >>> request(b'{"inputs": [' + tensor.replace(b"[2]", b"[3]") + b"]}", None, ["x"]).detail
        "Tensor 'x' has 2 values, its shape [3] says 3."
    """
    try:
        document, binary = _document(body, header_length)
        tensors = _tensors(document, binary, most_rows)
        return Request(rows=_rows(tensors, features, types), id=_id(document), outputs=_outputs(document))
    except _WrongError as wrong:
        return wrong.problem


def answer(
    asked: Request, answers: bytes, *, model: str, version: str, ids: Sequence[str], label: str | None = None
) -> tuple[bytes, Headers]:
    """Body and headers of the response.

    Args:
        answers: JSON text of a list, as a lane gives it. Numbers and booleans become tensors of their type, lists of
            equally many numbers one more dimension, texts BYTES, anything else BYTES of its JSON text.
        ids: of the predictions.
        label: the type of the label, where it is known: so that 1 and 1.5 do not make tensors of two types.

    Example:
        >>> asked = Request(rows=[{}], id="7", outputs={"predictions": False})
        >>> body, headers = answer(asked, b"[1.5]", model="rates", version="ab12", ids=["i"])
        >>> body[:53]
        b'{"model_name":"rates","model_version":"ab12","id":"7"'
        >>> body[53:]
        b',"outputs":[{"name":"predictions","shape":[1],"datatype":"FP64","data":[1.5]}]}'
    """
    outputs, binary = [], []
    for name, as_binary in asked.outputs.items():
        kind, shape, values = (
            ("BYTES", [len(ids)], list(ids)) if name == IDS else _typed(_decode(answers), _output(label))
        )
        output: dict[str, Any] = {"name": name, "shape": shape, "datatype": kind}
        if as_binary:
            data = _packed(kind, values)
            output["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            output["data"] = values
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id is not None:
        document["id"] = asked.id
    text = _encode({**document, "outputs": outputs})
    if not binary:
        return text, ((b"content-type", _JSON),)
    length = (b"inference-header-content-length", b"%d" % len(text))
    return b"".join([text, *binary]), ((b"content-type", b"application/octet-stream"), length)


def release_of(model: str, version: str | None, *, app: str, releases: Iterable[str]) -> str | Problem | None:
    """The release that a path asks for, None for whichever answers now, or the 404.

    Args:
        releases: ids of those that answer; a version is one of them or its first 8 or more digits.

    Example:
        >>> release_of("rates", "0123456789", app="rates", releases=["0123456789abcdef"])
        '0123456789abcdef'
        >>> release_of("rates", None, app="rates", releases=[]) is None
        True
        >>> release_of("prices", None, app="rates", releases=[]).detail
        "No model is named 'prices'; this server answers for 'rates'."
    """
    if model != app:
        detail = f"No model is named {shown(model)!r}; this server answers for {app!r}."
        return Problem(status=404, code="ST733", detail=detail)
    if version is None:
        return None
    known = list(releases)
    found = [one for one in known if one.startswith(version)] if len(version) >= _SHORTEST_VERSION else []
    if len(found) == 1:
        return found[0]
    listed = ", ".join(one[:12] for one in known) or "none"
    detail = (
        f"{len(found) or 'No'} releases in service begin with {shown(version)!r}; there are {listed}. Give at least "
        f"{_SHORTEST_VERSION} digits of one, or leave the version out."
    )
    return Problem(status=404, code="ST733", detail=detail)


def server_metadata(version: str) -> dict[str, Any]:
    """What `GET /v2` answers: staytrue, and its version."""
    return {"name": "staytrue", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(
    name: str, versions: Sequence[str], columns: Sequence[Mapping[str, Any]], label: str | None = None
) -> dict[str, Any]:
    """What `GET /v2/models/{name}` answers.

    Args:
        columns: `name`, `type` and `required` of each, as a signature's document has them.
        label: the type of the label, where it is known.

    Example:
        >>> metadata = model_metadata("rates", ["ab12"], [{"name": "size", "type": "float64", "required": True}])
        >>> metadata["inputs"]
        [{'name': 'size', 'datatype': 'FP64', 'shape': [-1]}]
    """
    inputs = []
    for column in columns:
        kind, shape = datatype_of(column["type"])
        one: dict[str, Any] = {"name": column["name"], "datatype": kind, "shape": shape}
        if not column.get("required", True):
            one["parameters"] = {"optional": True}
        inputs.append(one)
    outputs = [
        {"name": PREDICTIONS, "datatype": _output(label) or "FP64", "shape": [-1]},
        {"name": IDS, "datatype": "BYTES", "shape": [-1]},
    ]
    return {"name": name, "versions": list(versions), "platform": "staytrue", "inputs": inputs, "outputs": outputs}


def datatype_of(type_name: str) -> tuple[str, list[int]]:
    """Datatype and shape of a column of this type; what is no number comes as text.

    Example:
        >>> datatype_of("int64"), datatype_of("list<float32>[384]"), datatype_of("timestamp[UTC]")
        (('INT64', [-1]), ('FP32', [-1, 384]), ('BYTES', [-1]))
    """
    if not type_name.startswith("list<"):
        return _OF_TYPE.get(type_name, "BYTES"), [-1]
    item, _, size = type_name.removeprefix("list<").rpartition(">")
    return _OF_TYPE.get(item, "BYTES"), [-1, int(size.strip("[]")) if size else -1]


def error(problem: Problem) -> Problem:
    """The problem with the member `error`, which is all that clients of this protocol read."""
    return replace(problem, more={**problem.more, "error": problem.detail})


# -- requests ---------------------------------------------------------------------------------------------------------


class _WrongError(Exception):
    """The request is not as the protocol has it."""

    def __init__(self, detail: str, *, code: str = "ST731", status: int = 422, **known: Any) -> None:
        super().__init__(detail)
        faults = (fault(detail, **known),) if known else ()
        self.problem = Problem(status=status, code=code, detail=detail, errors=faults)


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """One input; `values` is flat, in row-major order."""

    name: str
    shape: list[int]
    values: Sequence[Any]

    @property
    def width(self) -> int:
        """Values of one row."""
        return math.prod(self.shape[1:])


def _document(body: bytes, header_length: bytes | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON part, and what comes after it."""
    size = len(body)
    if header_length is not None:
        size = int(header_length) if header_length.isdigit() and len(header_length) < 16 else -1
        if not 0 <= size <= len(body):
            detail = (
                f"Inference-Header-Content-Length is {shown(header_length.decode('latin-1'))!r}, expected a number up to "
                f"the {len(body)} bytes of the body."
            )
            raise _WrongError(detail, code="ST734", status=400)
    view = memoryview(body)
    try:
        document = _decode(view[:size])
    except (ValueError, RecursionError) as exc:
        raise _WrongError(f"The request is not JSON: {str(exc)[:120]}.", code="ST730", status=400) from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise _WrongError("The request has no list 'inputs'; expected an object with one.", field="inputs")
    return document, view[size:]


def _id(document: Mapping[str, Any]) -> str | None:
    given = document.get("id")
    if given is not None and not isinstance(given, str):
        raise _WrongError(f"'id' is {shown(given)!r}, expected a text.", field="id", got=shown(given))
    return given


def _outputs(document: Mapping[str, Any]) -> dict[str, bool]:
    as_binary = _parameters(document, "the request").get("binary_data_output") is True
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return {PREDICTIONS: as_binary, IDS: as_binary}
    if not isinstance(wanted, list):
        raise _WrongError(f"'outputs' is {shown(wanted)!r}, expected a list of objects.", field="outputs")
    found = {}
    for output in wanted:
        name = output.get("name") if isinstance(output, dict) else output
        if not isinstance(output, dict) or name not in (PREDICTIONS, IDS):
            raise _WrongError(
                f"No output is named {shown(name)!r}; there are {PREDICTIONS!r} and {IDS!r}.", field="outputs"
            )
        parameters = _parameters(output, f"the output {name!r}")
        if parameters.get("classification"):
            raise _WrongError(f"The output {name!r} asks for a classification, which this server has not.", field=name)
        found[name] = parameters.get("binary_data", as_binary) is True
    return found


def _parameters(owner: Mapping[str, Any], whose: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _WrongError(f"'parameters' of {whose} is {shown(parameters)!r}, expected an object.", field="parameters")
    if any(name.startswith("shared_memory") for name in parameters):
        raise _WrongError(f"{whose} asks for shared memory, which this server refuses.", field="parameters")
    return parameters


def _tensors(document: Mapping[str, Any], binary: memoryview, most_rows: int) -> list[_Tensor]:
    tensors: dict[str, _Tensor] = {}
    at = 0
    for i, given in enumerate(document["inputs"]):
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(name, str):
            raise _WrongError(f"Input {i} has no name; expected name, shape, datatype and data.", field="inputs")
        if name in tensors:
            raise _WrongError(f"Two tensors are named {shown(name)!r}.", field=shown(name))
        shape, kind = _shape(given, name, most_rows), given.get("datatype")
        if not isinstance(kind, str) or kind not in _DATATYPES:
            expected = f"one of BYTES, {', '.join(_NUMBERS)}"
            raise _wrong(name, f"has the datatype {shown(kind)!r}, expected {expected}", got=shown(kind))
        size = _parameters(given, f"the tensor {shown(name)!r}").get("binary_data_size")
        if size is None:
            values: Sequence[Any] = _from_json(given, name, kind, shape)
        else:
            if not _is_count(size) or size > len(binary) - at:
                detail = (
                    f"has a binary_data_size of {shown(size)!r}, but {len(binary) - at} bytes are left after the JSON"
                )
                raise _wrong(name, detail, code="ST734", status=400)
            values = _from_binary(binary[at : at + size], name, kind, shape)
            at += size
        tensors[name] = _Tensor(name=name, shape=shape, values=values)
    if at < len(binary):
        detail = f"{len(binary) - at} bytes of binary data belong to no tensor: give its binary_data_size."
        raise _WrongError(detail, code="ST734", status=400)
    if not tensors:
        raise _WrongError("'inputs' is empty; expected at least one tensor.", field="inputs")
    return list(tensors.values())


def _shape(given: Mapping[str, Any], name: str, most_rows: int) -> list[int]:
    shape = given.get("shape")
    if not isinstance(shape, list) or len(shape) not in {1, 2} or not all(_is_count(size) for size in shape):
        raise _wrong(name, f"has the shape {shown(shape)}, expected [n] or [n, m]", got=shown(shape))
    # A row without values costs no byte of the request, and memory here.
    if len(shape) == 2 and shape[1] == 0:
        raise _wrong(name, f"has the shape {shown(shape)}: its rows are empty", got=shown(shape))
    # Looked at before the values are: one byte of a request can be a row.
    if shape[0] > most_rows:
        detail = f"The request has more than {most_rows:,} rows. Send them in several requests."
        raise _WrongError(detail, code="ST736")
    return shape


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _from_json(given: Mapping[str, Any], name: str, kind: str, shape: list[int]) -> list[Any]:
    data = given.get("data")
    if not isinstance(data, list):
        raise _wrong(name, f"has {shown(data)!r} as its data, expected a list", got=shown(data))
    if data and isinstance(data[0], list):
        # Nested: a list for each row.
        rows = data
        wrong = next((i for i, row in enumerate(rows) if not isinstance(row, list) or len(row) != shape[-1]), None)
        if len(shape) == 1 or len(rows) != shape[0] or wrong is not None:
            raise _wrong(name, f"has data that is not nested as its shape {shape} says", row=wrong)
        data = list(chain.from_iterable(rows))
    _check_count(name, len(data), shape)
    return _of_kind(data, name, kind, shape)


def _of_kind(data: list[Any], name: str, kind: str, shape: list[int]) -> list[Any]:
    """The values as the datatype has them; null stays None."""
    # A request of megabytes must not hold up others for long: what is as usual is seen without a loop in Python.
    types = set(map(type, data))
    if (
        (kind in _FLOATS and types <= {float})
        or (kind == "BYTES" and types <= {str})
        or (kind == "BOOL" and types <= {bool})
    ):
        return data
    low, high = _range(kind)
    if types == {int} and "INT" in kind and low <= min(data) and max(data) <= high:
        return data
    for i, value in enumerate(data):
        if not (value is None or _fits(kind, value, low, high)):
            row = i // math.prod(shape[1:])
            raise _wrong(name, f"has {shown(value)!r} in row {row}, which is no {kind}", row=row, got=shown(value))
    if kind in _FLOATS:
        return [None if value is None else _float(value) for value in data]
    return [int(value) if isinstance(value, float) else value for value in data]


def _range(kind: str) -> tuple[int, int]:
    bits = int(kind[kind.index("T") + 1 :]) if "INT" in kind else 0
    return (0, 2**bits - 1) if kind.startswith("U") else (-(2**bits) // 2, 2**bits // 2 - 1)


def _fits(kind: str, value: Any, low: int, high: int) -> bool:
    if kind == "BYTES":
        return isinstance(value, str)
    if kind == "BOOL" or isinstance(value, bool):
        return kind == "BOOL" and isinstance(value, bool)
    if kind in _FLOATS:
        return isinstance(value, int | float)
    return (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and low <= value <= high


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _from_binary(data: memoryview, name: str, kind: str, shape: list[int]) -> Sequence[Any]:
    if kind == "BYTES":
        values = list(_texts(data, name))
        _check_count(name, len(values), shape)
        return values
    sign = _NUMBERS[kind]
    count, rest = divmod(len(data), struct.calcsize(f"<{sign}"))
    if rest:
        raise _wrong(name, f"has {len(data)} bytes of {kind}: the last value is cut", code="ST734", status=400)
    _check_count(name, count, shape)
    return struct.unpack(f"<{count}{sign}", data)


def _texts(data: memoryview, name: str) -> Iterator[str]:
    at = 0
    while at < len(data):
        end = at + 4 + (struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data))
        if end > len(data):
            raise _wrong(name, "ends within one of its texts", code="ST734", status=400)
        try:
            yield str(data[at + 4 : end], "utf-8")
        except UnicodeDecodeError:
            raise _wrong(name, "has bytes that are no UTF-8") from None
        at = end


def _check_count(name: str, got: int, shape: list[int]) -> None:
    if got != math.prod(shape):
        raise _wrong(
            name, f"has {got} values, its shape {shape} says {math.prod(shape)}", got=got, expected=math.prod(shape)
        )


def _wrong(name: str, what: str, *, code: str = "ST732", status: int = 422, **known: Any) -> _WrongError:
    shown_name = shown(name)
    return _WrongError(f"Tensor {shown_name!r} {what}.", code=code, status=status, field=shown_name, **known)


def _rows(tensors: list[_Tensor], features: Sequence[str], types: Mapping[str, str]) -> list[Row]:
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2 and first.name not in features:
        return _rows_of_matrix(first, features)
    columns: dict[str, Sequence[Any]] = {}
    for tensor in tensors:
        if tensor.shape[0] != first.shape[0]:
            detail = f"has {tensor.shape[0]} rows, {shown(first.name)!r} has {first.shape[0]}"
            raise _wrong(tensor.name, detail, got=tensor.shape[0], expected=first.shape[0])
        of_lists = tensor.width > 1 or (len(tensor.shape) == 2 and types.get(tensor.name, "").startswith("list<"))
        columns[tensor.name] = _in_rows(tensor) if of_lists else tensor.values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of_matrix(tensor: _Tensor, features: Sequence[str]) -> list[Row]:
    if tensor.width != len(features):
        listed = ", ".join([*features[:8], *(["..."] if len(features) > 8 else [])])
        detail = f"is no column and has rows of {tensor.width}; expected a column, or rows of {len(features)}: {listed}"
        raise _wrong(tensor.name, detail, got=tensor.width, expected=len(features))
    return [dict(zip(features, row, strict=True)) for row in _in_rows(tensor)]


def _in_rows(tensor: _Tensor) -> list[list[Any]]:
    width = tensor.width
    return [list(tensor.values[at : at + width]) for at in range(0, len(tensor.values), width)]


# -- responses --------------------------------------------------------------------------------------------------------


def _typed(values: list[Any], datatype: str | None) -> tuple[str, list[int], list[Any]]:
    """Datatype, shape and flat values of an output."""
    shape = [len(values)]
    widths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(widths) == 1 and 0 not in widths:
        inner = list(chain.from_iterable(values))
        if all(value is None or isinstance(value, bool | int | float) for value in inner):
            shape, values = [len(values), *widths], inner
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOL", shape, values
    if kinds and kinds <= {int, float, type(None)}:
        return _of_numbers(kinds, values, datatype), shape, values
    if not kinds:
        return datatype or "FP64", shape, values
    return "BYTES", shape, [value if isinstance(value, str) else _encode(value).decode() for value in values]


def _of_numbers(kinds: set[type], values: list[Any], datatype: str | None) -> str:
    # A null has no place in a tensor of whole numbers.
    if kinds == {int} and datatype != "FP64":
        low, high = min(values), max(values)
        for kind in dict.fromkeys([datatype, "INT64", "UINT64"]):
            if kind is not None and "INT" in kind and _range(kind)[0] <= low and high <= _range(kind)[1]:
                return kind
    return "FP64"


def _output(label: str | None) -> str | None:
    """The datatype of predictions of a label of this type."""
    return None if label is None else {"FP32": "FP64"}.get(kind := datatype_of(label)[0], kind)


def _packed(kind: str, values: list[Any]) -> bytes:
    """Values as Triton's binary tensors: a null is NaN, a text comes after its length."""
    if kind == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))
    if kind == "FP64":
        values = [math.nan if value is None else _float(value) for value in values]
    return struct.pack(f"<{len(values)}{_NUMBERS[kind]}", *values)
