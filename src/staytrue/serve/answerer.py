"""Answerer: one release, ready to answer: its own code and model out of the store, its golden rows checked.

What training saw and what a request brings meet here in the same types: golden rows go through the very path that
requests go, and a release whose answers are not the recorded ones answers nobody.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from staytrue.app import App, FrameKind, load
from staytrue.errors import Corrupt, InvalidInput, StaytrueError
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.examples import example_signature
from staytrue.kernel.release import Digest, Release
from staytrue.kernel.signature import Signature, signature
from staytrue.loop.tasks import example_rows, joined, plain_answers
from staytrue.serve.channel import pack_array
from staytrue.serve.handshake import Errand
from staytrue.store import code as code_store
from staytrue.store import frames, models, tables
from staytrue.store.block import Block, Layout
from staytrue.store.models import Golden
from staytrue.store.objects import LocalObjects

__all__ = ["Answerer", "Answers", "open_answerer"]

_encode = msgspec.json.Encoder().encode


class Answers(NamedTuple):
    """What became of requests: the answers of each as JSON text of a list, None where an error stands in their place."""

    data: list[bytes | None]
    errors: dict[int, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A release that answers blocks of rows.

    Attributes:
        id, release: which it is.
        app: its own code, imported.
        model: loaded; None in a plain service.
        signature: what it wants to be asked.
        layout: of the blocks that it is given: the columns of its signature.
        label_type: what its answers are held against; of a plain service, what they are.
        example: a row of its training, or a plain service's example, as a request has it; empty when it has no golden rows.
    """

    id: Digest
    release: Release
    app: App
    model: Any
    signature: Signature
    layout: Layout
    label_type: str
    example: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """The predict function, as messages call it."""
        return getattr(self.app.answerer, "__name__", "predict")

    @cached_property
    def in_pieces(self) -> bool:
        """Whether an answer comes in pieces, a row at a time."""
        return inspect.isasyncgenfunction(self.app.answerer)

    @cached_property
    def is_async(self) -> bool:
        """Whether requests may wait beside each other inside the predict function."""
        return self.in_pieces or inspect.iscoroutinefunction(self.app.answerer)

    @cached_property
    def kind(self) -> FrameKind:
        """As what the predict function gets its rows."""
        return self.app.rows_kind

    @cached_property
    def frame(self) -> Callable[[Block], Any]:
        """From a block to the frame that the predict function is given."""
        seen = self.signature.seen
        types = dict(self.signature.schema)
        if self.kind == "dicts":
            return lambda block: self.layout.dicts(block, seen)
        if self.kind != "pandas":
            return lambda block: frames.to_frame(self.layout.rows(block, seen), self.kind)
        if not seen or any(types[name] != "float64" for name in seen):
            return lambda block: frames.to_pandas(self.layout.columns(block, seen), block.n)
        return _all_floats(self.layout, seen)

    def answered(self, block: Block, sizes: Sequence[int]) -> Answers:
        """The answers to the requests in a block, one after the other; `sizes` says how many rows each has.

        One request that the predict function fails on does not take the others with it: each is then asked alone.
        """
        try:
            answers = self._called(block)
        except StaytrueError as exc:
            return self._one_by_one(block, sizes, exc)
        if len(sizes) == len(answers):
            return Answers([_encode([one]) for one in answers], {})
        made = Answers([], {})
        at = 0
        for size in sizes:
            made.data.append(_encode(answers[at : at + size]))
            at += size
        return made

    def answered_whole(self, block: Block) -> Answers:
        """The answers to all rows of a block as one request, numbers as the bytes of an array (`channel.pack_array`)."""
        try:
            given = self._given(block)
            # What pandas holds as numbers is an array inside.
            numbers = given.to_numpy() if hasattr(given, "to_numpy") else given
            fits = isinstance(numbers, np.ndarray) and numbers.shape == (block.n,)
            packed = pack_array(numbers) if fits else None
            if packed is None:
                packed = _encode(plain_answers(given, block.n, self.name))
        except StaytrueError as exc:
            return Answers([None], {0: exc.document()})
        return Answers([packed], {})

    def _one_by_one(self, block: Block, sizes: Sequence[int], error: StaytrueError) -> Answers:
        if len(sizes) == 1:
            return Answers([None], {0: self._located(block, error).document()})
        made = Answers([], {})
        at = 0
        for place, size in enumerate(sizes):
            one = self.answered(block.slice(at, at + size), [size])
            made.data.extend(one.data)
            if one.errors:
                made.errors[place] = one.errors[0]
            at += size
        return made

    def _located(self, block: Block, error: StaytrueError) -> StaytrueError:
        """The error, with the row that it comes from if that can be found out cheaply."""
        if block.n == 1:
            error.facts.setdefault("row", 0)
        for row in range(min(block.n, _LOOKED_AT) if block.n > 1 and "row" not in error.facts else 0):
            try:
                self._called(block.slice(row, row + 1))
            except StaytrueError as exc:
                exc.facts["row"] = row
                return exc
        return error

    def values(self, block: Block) -> list[Any]:
        """One plain answer a row. Raises as `loop.tasks.checked_answers`."""
        return self._called(block)

    def _called(self, block: Block) -> list[Any]:
        if self.is_async:
            return asyncio.run(self.awaited(block))
        return plain_answers(self._given(block), block.n, self.name)

    def _given(self, block: Block) -> Any:
        """What the predict function, which is not async, gives."""
        try:
            given = self.app.ask(self.model, self.frame(block))
        except Exception as exc:
            raise self._raised(exc, block.n) from exc
        return asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given

    async def awaited(self, block: Block) -> list[Any]:
        """As `values`, for an async predict function, without standing in the way of other requests."""
        if self.in_pieces:
            rows = [block.slice(row, row + 1) for row in range(block.n)]
            return [self.whole([piece async for piece in self.pieces(row)])[0] for row in rows]
        try:
            given = await self.app.ask(self.model, self.frame(block))
        except Exception as exc:
            raise self._raised(exc, block.n) from exc
        return plain_answers(given, block.n, self.name)

    def whole(self, pieces: Sequence[Any]) -> list[Any]:
        """The one answer that came in these pieces, as a list of it."""
        if not self.in_pieces:
            return list(pieces)
        return plain_answers([joined(pieces)], 1, self.name)

    async def pieces(self, block: Block) -> AsyncIterator[Any]:
        """The answer to a block of one row as it comes, piece by piece."""
        if not self.in_pieces:
            yield (await self.awaited(block))[0]
            return
        try:
            async for piece in self.app.ask(self.model, self.frame(block)):
                yield piece
        except Exception as exc:
            raise self._raised(exc, block.n) from exc

    def _raised(self, exc: Exception, rows: int) -> StaytrueError:
        if isinstance(exc, StaytrueError):
            return exc
        # Only the first line, and not much of it: what a function says may hold the rows of others.
        said = str(exc).strip().partition("\n")[0][:300]
        return InvalidInput(
            "ST303", f"{self.name} raised {type(exc).__name__} on {rows} rows: {said}", error=type(exc).__name__
        )


_LOOKED_AT = 64


def _all_floats(layout: Layout, seen: Sequence[str]) -> Callable[[Block], Any]:
    """Numbers alone become a frame at one go: 10 us, where column by column it takes 165 (20 columns)."""
    import pandas as pd

    index = pd.Index(list(seen))
    places = [layout.float_names.index(name) for name in seen]
    if places == list(range(len(layout.float_names))):
        # A copy (1 us of the 12): a predict function may write into its rows, and those of a batch that failed are asked again.
        return lambda block: pd.DataFrame(block.floats.copy(), columns=index, copy=False)
    return lambda block: pd.DataFrame(block.floats[:, places], columns=index, copy=False)


async def _awaited(given: Any) -> Any:
    return await given


def open_answerer(errand: Errand) -> Answerer:
    """The release, ready to answer. Its code's folder is put first on the import path.

    Raises:
        Corrupt: ST755, it does not give its golden answers any more; ST314 to ST317, as `models.load`.
        And as `app.load`.
    """
    objects = LocalObjects(errand.root)
    release = Release.from_document(objects.get_document(errand.release))
    tree = code_store.load(objects, release.code)
    folder = code_store.checkout(objects, tree.id, errand.root / "work" / "code" / tree.id)
    app, _ = load(str(Path(folder) / tree.entry))
    golden = _golden(objects, release)
    model = None
    if not release.is_service:
        named, _ = release.trained()
        model = models.load(objects, named, errand.seal, models.store_key(errand.root), app.loader)
    if app.labelled is None:
        made, label_type = _service_signature(app, golden)
    else:
        made, label_type = _signature(objects, errand, app, app.labelled.spec)
    answerer = Answerer(
        id=errand.release,
        release=release,
        app=app,
        model=model,
        signature=made,
        layout=Layout(made.schema),
        label_type=label_type,
        example=_example(golden[0], app) if golden else {},
    )
    if golden:
        _check_golden(answerer, *golden)
    return answerer


def _signature(objects: LocalObjects, errand: Errand, app: App, spec: SourceSpec) -> tuple[Signature, str]:
    """The signature, and the label's type."""
    table = tables.load(objects, Digest(errand.tables[spec.name]))
    names = [name for name, _ in table.schema]
    features = spec.features or [name for name in names if name not in (spec.time, spec.key, spec.label)]
    made = signature(
        table.schema,
        tables.sketches(objects, table),
        features=list(features),
        key=spec.key,
        time=spec.time,
        label=spec.label,
        inputs=app.input_actions,
    )
    return made, dict(table.schema)[str(spec.label)]


def _service_signature(app: App, golden: tuple[frames.Rows, Sequence[Any]] | None) -> tuple[Signature, str]:
    """What a plain service's examples tell of its requests, and its golden answers of its answers."""
    rows = example_rows(app)
    made = example_signature(frames.schema(rows), app.examples, inputs=app.input_actions)
    kinds = {type(answer) for answer in (golden[1] if golden else ())}
    if kinds and kinds <= {int, float}:
        return made, "float64"
    return made, "bool" if kinds == {bool} else "string"


def _golden(objects: LocalObjects, release: Release) -> tuple[frames.Rows, Sequence[Any]] | None:
    """The release's golden rows and the answers to them, if it has any."""
    if release.golden is None:
        return None
    golden = Golden.from_document(objects.get_document(release.golden))
    return frames.read_parquet(objects.get(golden.rows)), golden.answers


def _check_golden(answerer: Answerer, rows: frames.Rows, answers: Sequence[Any]) -> None:
    columns = {name: frames.column(rows, name) for name in rows.column_names}
    block = answerer.layout.unpack(answerer.layout.of_columns(columns, rows.num_rows).pack())
    differs = models.answers_equal(answers, answerer.values(block))
    if differs is not None:
        raise Corrupt(
            "ST755",
            f"Release {answerer.id[:8]} does not give its golden answers any more: {differs}. It is not served. "
            "Look whether libraries have changed since it was trained (`staytrue show`).",
            release=answerer.id,
            why=differs,
        )


def _example(rows: frames.Rows, app: App) -> dict[str, Any]:
    """The first row as a request would have it; of a plain service without what its author has left out."""
    row = {name: values[0] for name, values in frames.to_pydict(rows.slice(0, 1)).items()}
    given = app.examples[0] if app.examples else row
    return {name: _json_value(value) for name, value in row.items() if name in given}


def _json_value(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
