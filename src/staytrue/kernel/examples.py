"""Examples: requests that a plain service was given by its author, and the signature that they make.

An app that learns takes its signature from the table that it was trained on. A plain service has no table, so a few
requests stand in for one: they tell columns and types, and nothing of what is usual. No range and no set of known words
is learned from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Schema
from staytrue.kernel.signature import Action, Signature, checked_inputs, signature

__all__ = ["MOST_EXAMPLES", "Example", "checked_examples", "example_signature", "read", "written"]

MOST_EXAMPLES: Final = 32
"""So many rows with their answers a release keeps (`store.models.GOLDEN_ROWS`)."""

Example = Mapping[str, Any]


def checked_examples(examples: Any) -> tuple[Example, ...]:
    """The examples, once they are seen to be rows that a request could hold.

    Values are what JSON holds, dates and times, and flat lists of these; numpy's become Python's own.

    Raises:
        InvalidInput: ST867, no list of dicts, none or too many of them, a name that is no text, or a value that no request
            can hold; it names the example and the column.

    Example:
        >>> checked_examples([{"a": 2, "b": 0.5}])
        ({'a': 2, 'b': 0.5},)
    """
    if isinstance(examples, str | bytes | Mapping) or not isinstance(examples, Sequence):
        raise _unfit(f"got {_shown(examples)}")
    if not 1 <= len(examples) <= MOST_EXAMPLES:
        raise _unfit(f"got {len(examples)} of them")
    return tuple(_checked(row, place) for place, row in enumerate(examples))


def _checked(row: Any, place: int) -> Example:
    if not isinstance(row, Mapping) or not row:
        raise _unfit(f"example {place} is {_shown(row)}", example=place)
    for name in row:
        if not isinstance(name, str) or not name or "\0" in name or not _is_writable(name):
            raise _unfit(f"example {place} has a column called {name!a:.80}", example=place)
    values = {name: _plain(value) for name, value in row.items()}
    for name, value in values.items():
        wrong = _why_not(value)
        if wrong:
            raise _unfit(f"{name!r} of example {place} {wrong}", example=place, column=name)
    return values


def written(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The examples as JSON, times told from texts; `read` reads them.

    Example:
        >>> written([{"day": date(2026, 3, 1), "n": 1}])
        [{'day': {'date': '2026-03-01'}, 'n': 1}]
    """
    return [{name: _written(value) for name, value in row.items()} for row in examples]


def read(document: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The examples that were `written`.

    Example:
        >>> read(written([{"day": date(2026, 3, 1), "n": [1, 2]}]))
        [{'day': datetime.date(2026, 3, 1), 'n': [1, 2]}]
    """
    return [{name: _read(value) for name, value in row.items()} for row in document]


def example_signature(
    schema: Schema, examples: Sequence[Example], *, inputs: Mapping[str, Any] | None = None
) -> Signature:
    """The signature of a plain service.

    A column that is null in an example may be null in a request; one that an example leaves out may be left out.

    Args:
        schema: of the examples as rows: (name, type) in order.
        inputs: what the app says to do about faults; it overrides what the examples say.

    Raises:
        InvalidInput: ST867, a column whose type no example tells; ST752, ST753, as `signature`.

    Example:
        >>> made = example_signature((("a", "int64"), ("b", "float64")), [{"a": 1, "b": 2.0}, {"a": 1}])
        >>> [(one.name, one.actions["missing"], one.low) for one in made.features]
        [('a', 'refuse', None), ('b', 'accept', None)]
    """
    for name, type_name in schema:
        if type_name == "null" or type_name.startswith("list<null>"):
            empty = "null" if type_name == "null" else "an empty list"
            raise _unfit(f"{name!r} is {empty} in every example, so that nothing tells its type", column=name)
    said = checked_inputs(inputs or {})
    told: dict[str, dict[str, Action]] = {}
    for name, _ in schema:
        faults: dict[str, Action] = {}
        if any(row.get(name) is None for row in examples):
            faults["null"] = "accept"
        if any(name not in row for row in examples):
            faults["missing"] = "accept"
        # What is said of all columns is a word about this one too.
        told[name] = faults | said.get("*", {}) | said.get(name, {})
    others = {name: faults for name, faults in said.items() if name not in told}
    return signature(schema, {}, features=[name for name, _ in schema], inputs={**others, **told})


def _plain(value: Any) -> Any:
    """Lists and numbers of other libraries as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _why_not(value: Any) -> str | None:
    """Why a request can't hold this value; None when it can."""
    if isinstance(value, list):
        nested = next((item for item in value if isinstance(item, list)), None)
        return "is a list of lists" if nested is not None else next(filter(None, map(_why_not, value)), None)
    if isinstance(value, Mapping):
        return "is a dict: give each of its keys a column of its own"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which no request can hold"
    if isinstance(value, str) and not _is_writable(value):
        return "is a text with half of a surrogate pair, which can't be written"
    # A bool is an int, a datetime a date.
    fits = value is None or isinstance(value, int | float | str | date)
    return None if fits else f"is {_shown(value)}, which no request can hold"


def _written(value: Any) -> Any:
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    return {"date": value.isoformat()} if isinstance(value, date) else value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return datetime.fromisoformat(text) if kind == "time" else date.fromisoformat(text)
    return value


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    return "an empty dict" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"


def _unfit(what: str, **facts: Any) -> InvalidInput:
    return InvalidInput(
        "ST867",
        f"@app.predict(examples=...): {what}; expected a list of 1 to {MOST_EXAMPLES} requests, each a dict of columns, "
        'such as [{"a": 1.5, "b": 2}].',
        **facts,
    )
