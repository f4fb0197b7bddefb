"""Models: from an object to bytes and back. This is the one module that unpickles.

Loading a pickle runs code, so a model is loaded only when its manifest carries the seal of this store's key: whoever can
write an object but doesn't have the key can't have anything loaded. The digest is checked at every read, so a flipped
bit is an error and not another prediction; and golden rows show that the bytes still answer as they did, under newer
libraries too.
"""

from __future__ import annotations

import hmac
import math
import os
import pickle
import re
import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec
import numpy as np
from blake3 import blake3

from staytrue.errors import Corrupt, InvalidInput, Refused
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.release import Digest, is_digest
from staytrue.store.durable import disk, make_directory, sync_directory, sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from staytrue.store.objects import LocalObjects

__all__ = [
    "GOLDEN_ROWS",
    "KEY_BYTES",
    "Format",
    "Golden",
    "answers_equal",
    "dump",
    "load",
    "manifest",
    "parse",
    "seal",
    "store_key",
]

Format = Literal["pickle", "hook"]
"""How a model's bytes were made: by pickle, or by the app's own `@app.save`."""

KEY_BYTES = 32
GOLDEN_ROWS = 32
"""The most rows that a model's golden rows have."""


def dump(model: object, save: Callable[[Any], bytes] | None = None) -> tuple[Format, bytes]:
    """A model as bytes, and how they were made: by the app's `@app.save` if there is one, else by pickle.

    Raises:
        InvalidInput: ST310 the model is None; ST311 it can't be pickled; ST312 `save` raised, or gave no bytes.

    Example:
        >>> form, data = dump({"slope": 2.0})
        >>> form, parse(form, data)
        ('pickle', {'slope': 2.0})
    """
    if model is None:
        msg = "Storing the model: @app.train gave None, expected a model. Does the function end with `return`?"
        raise InvalidInput("ST310", msg)
    if save is not None:
        return "hook", _saved(model, save)
    try:
        return "pickle", pickle.dumps(model, protocol=5)
    except Exception as exc:
        kind, cause = _type_name(model), _cause(exc)
        msg = (
            f"Storing the model: a {kind} can't be pickled: {cause}. Keep lambdas, open files, locks and connections "
            "out of it, or write it in your own way with @app.save and @app.load."
        )
        raise InvalidInput("ST311", msg, type=kind, cause=cause) from exc


def parse(form: str, data: bytes, load: Callable[[bytes], Any] | None = None) -> Any:
    """The model that these bytes are. It runs the code in them: only for bytes that this store's own training made.

    Raises:
        InvalidInput: ST316, they were written by `@app.save` and there is no `@app.load`.
        Refused: ST315, they don't become a model here: a library or the app's code is not what it was.
        Corrupt: ST314, an unknown format.
    """
    if form not in ("pickle", "hook"):
        msg = f"Loading a model: its format is {form!r}, expected 'pickle' or 'hook'. Run `staytrue verify`."
        raise Corrupt("ST314", msg, format=form)
    if form == "hook" and load is None:
        msg = "Loading a model: it was written by @app.save, and the app has no @app.load. Add the function that reads it."
        raise InvalidInput("ST316", msg)
    try:
        return load(data) if form == "hook" and load is not None else pickle.loads(data)  # noqa: S301 - see the docstring
    except Exception as exc:
        cause = _cause(exc)
        msg = (
            f"Loading a model: its bytes are intact, yet they don't become a model here: {cause}. Look whether libraries "
            "or the app's code have changed since (`staytrue diff`), or train again with `staytrue train`."
        )
        raise Refused("ST315", msg, format=form, cause=cause) from exc


def load(
    objects: LocalObjects,
    model: Digest,
    sealed: str,
    key: bytes,
    load: Callable[[bytes], Any] | None = None,
) -> Any:
    """The model with this id, if this store made it.

    Args:
        objects: where it is kept.
        model: the id of its manifest.
        sealed: the seal that was written down when it was trained.
        key: this store's key, see `store_key`.
        load: the app's `@app.load`, if it has one.

    Raises:
        Refused: ST313, the seal is not this store's.
        Corrupt: ST314, the manifest is none or doesn't fit its bytes. NotFound, Corrupt: as `LocalObjects.get`.
        And as `parse`.
    """
    document = objects.get_document(model)
    # As bytes: text of other alphabets can't be compared in constant time, and would be an error of its own.
    if not hmac.compare_digest(seal(key, document).encode(), sealed.encode()):
        msg = (
            f"Loading model {model[:12]}: it doesn't carry this store's seal, so it was not trained here, and loading it "
            "would run whatever code is in it. What this store trusts is decided by the file `key` in its folder: if you "
            "moved the store, bring that file along; a model from elsewhere is trained here anew with `staytrue train`."
        )
        raise Refused("ST313", msg, model=model)
    content = document.get("bytes")
    if document.get("kind") != "model" or not isinstance(content, str) or not is_digest(content):
        _corrupt(model, f"expected a model's manifest, got kind {document.get('kind')!r}")
    data = objects.get(Digest(content))
    if document.get("size") != len(data):
        _corrupt(model, f"its manifest says {document.get('size')} bytes, there are {len(data)}")
    return parse(document.get("format", ""), data, load)


def manifest(*, data: Digest, form: Format, size: int, golden: Digest | None, recipe: Digest) -> dict[str, Any]:
    """The document that stands for a model; its digest is the model's id, and it is what `seal` is put on.

    Args:
        data: the object with the model's bytes.
        form: how `dump` made them.
        size: how many they are.
        golden: the document of its golden rows.
        recipe: what it was trained by.
    """
    return {"kind": "model", "bytes": data, "format": form, "size": size, "golden": golden, "recipe": recipe}


def seal(key: bytes, document: Mapping[str, Any]) -> str:
    """The proof that the owner of `key` wrote `document`: keyed BLAKE3 over its canonical JSON, 64 hex digits.

    Example:
        >>> seal(bytes(32), {"kind": "model"}) == seal(bytes(31) + b"1", {"kind": "model"})
        False
    """
    return blake3(canonical_json(document), key=key).hexdigest()


def store_key(root: Path) -> bytes:
    """The store's key: 32 random bytes in the file `key`, readable by its owner only, made at first use.

    Any number of processes may ask at once: all get the same one, and no moment shows half a key.

    Raises:
        Corrupt: ST317, the file has another length.
        Unavailable: ST402 the disk is full, ST403 it refuses.
    """
    path = root / "key"
    with disk(f"read the store's key {path}"):
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        msg = (
            f"Reading the store's key: {path} has {len(key)} bytes, expected {KEY_BYTES}. Put the original back from a "
            "backup; without it no model of this store is loaded. If it is lost, delete the file and train again."
        )
        raise Corrupt("ST317", msg, path=str(path), size_bytes=len(key))
    return key


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A few inputs and the answers to them, which every later load of the model must give again.

    `rows` names an object with the inputs (Parquet), at most `GOLDEN_ROWS`; `answers` holds one plain value a row.
    """

    rows: Digest
    answers: Sequence[Any]

    def document(self) -> dict[str, Any]:
        """The golden rows as a document.

        Raises:
            InvalidInput: ST318, more than `GOLDEN_ROWS` answers; ST401, an answer that JSON can't hold, such as NaN.

        Example:
            >>> golden = Golden(rows=Digest("ab" * 32), answers=[1.5, "yes"])
            >>> Golden.from_document(golden.document()) == golden
            True
        """
        if len(self.answers) > GOLDEN_ROWS:
            msg = f"Keeping golden rows: got {len(self.answers)} answers, at most {GOLDEN_ROWS} are kept. Take fewer rows."
            raise InvalidInput("ST318", msg, got=len(self.answers), limit=GOLDEN_ROWS)
        # As text: in a document, 64 hex digits alone are a reference to an object, and an answer may be any text.
        answers = canonical_json([_plain(answer) for answer in self.answers]).decode()
        return {"kind": "golden", "rows": self.rows, "answers": answers}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Golden:
        """The golden rows that were written as `document`.

        Raises:
            Corrupt: ST314, the document holds none.
        """
        try:
            rows, answers = document["rows"], msgspec.json.decode(document["answers"], type=list)
        except (KeyError, TypeError, ValueError):
            rows, answers = None, []
        if document.get("kind") != "golden" or not is_digest(rows):
            msg = f"Reading golden rows: got kind {document.get('kind')!r}. Run `staytrue verify`."
            raise Corrupt("ST314", msg, kind=document.get("kind"))
        return cls(rows=Digest(rows), answers=answers)


def answers_equal(expected: Sequence[Any], got: Sequence[Any], rtol: float = 1e-6) -> str | None:
    """None when the answers are the same, else a sentence that names the first row that differs.

    Floats may differ by `rtol` of the larger one (another CPU sums in another order), or by 1e-12 around 0; whole
    numbers, texts, True, False and None not at all. Lists and dicts are compared item by item.

    Example:
        >>> answers_equal([1.0, "a", [0.5, None]], [1.0000001, "a", [0.5, None]])
        >>> answers_equal([1.0, 2.0], [1.0, 2.1])
        'row 1 answers 2.1, expected 2.0'
    """
    if len(expected) != len(got):
        return f"{len(got)} answers, expected {len(expected)}"
    for row, (was, now) in enumerate(zip(expected, got, strict=True)):
        if not _same(_plain(was), _plain(now), rtol):
            return f"row {row} answers {_plain(now)!r:.80}, expected {_plain(was)!r:.80}"
    return None


def _same(was: Any, now: Any, rtol: float) -> bool:
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(_same(a, b, rtol) for a, b in zip(was, now, strict=True))
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() == now.keys() and all(_same(was[key], now[key], rtol) for key in was)
    numbers = _is_number(was) and _is_number(now)
    if numbers and (isinstance(was, float) or isinstance(now, float)):
        both_nan = was != was and now != now  # noqa: PLR0124 - NaN is what differs from itself, and ints have no isnan
        return both_nan or math.isclose(was, now, rel_tol=rtol, abs_tol=1e-12)
    return (numbers or type(was) is type(now)) and bool(was == now)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """An answer in Python's own types: numpy's scalars and arrays as numbers and lists, at any depth."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _saved(model: object, save: Callable[[Any], object]) -> bytes:
    try:
        data = save(model)
    except Exception as exc:
        cause = _cause(exc)
        msg = f"Storing the model: @app.save raised {cause}. Call it on a model in a notebook to see where."
        raise InvalidInput("ST312", msg, type=_type_name(model), cause=cause) from exc
    if not isinstance(data, bytes | bytearray | memoryview):
        msg = f"Storing the model: @app.save gave a {_type_name(data)}, expected bytes. Return the bytes themselves."
        raise InvalidInput("ST312", msg, type=_type_name(model), got=_type_name(data))
    return bytes(data)


def _make_key(path: Path) -> None:
    make_directory(path.parent)
    temporary = path.with_name(f".key-{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secrets.token_bytes(KEY_BYTES))
            out.flush()
            sync_file(out.fileno())
        # A link and not a rename: of two processes the second one fails here, and takes the first one's key.
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def _corrupt(model: Digest, why: str) -> NoReturn:
    raise Corrupt("ST314", f"Loading model {model[:12]}: {why}. Run `staytrue verify`.", model=model, why=why)


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _cause(exc: Exception) -> str:
    # Without the addresses in memory: the same failure gives the same message every time.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(exc).__name__}: {exc}".rstrip(": ."))
