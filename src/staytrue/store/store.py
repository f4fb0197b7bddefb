"""Store: everything that is kept, opened at one place. What `staytrue.open()` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.kernel.release import Digest, Recipe, Release, is_digest
from staytrue.settings import setting
from staytrue.store import frames, models, tables
from staytrue.store.ledger import LIVE, Event, Ledger
from staytrue.store.objects import LocalObjects
from staytrue.store.traffic import Traffic

__all__ = ["KeptRelease", "KeptTable", "Store", "open_store"]


def open_store(where: str | Path | None = None, *, must_exist: bool = False) -> Store:
    """The store at a folder, made if need be: `--store`, `STAYTRUE_STORE` or `.staytrue`.

    Raises:
        NotFound: ST470, `must_exist` and there is none.
        Unavailable, Corrupt: as `Ledger.open`.
    """
    root = Path(setting("store", str(where) if where is not None else None)).absolute()
    if must_exist and not (root / "ledger.db").exists():
        raise NotFound(
            "ST470",
            f"No store at {root}. `staytrue fetch` or `staytrue demo` makes one; --store says where.",
            path=str(root),
        )
    return Store(root)


@dataclass(frozen=True)
class KeptRelease:
    """A release as the store keeps it."""

    store: Store
    id: Digest
    release: Release

    def model(self, loader: Callable[[bytes], Any] | None = None) -> Any:
        """The model, loaded into this process; refused when this store did not seal it.

        Args:
            loader: the app's `@app.load`, for a model that its `@app.save` wrote: `release.model(app.loader)`.

        Raises:
            InvalidInput: ST316, it was written by `@app.save` and there is no loader. NotFound: ST865, a plain service has
            none. Refused, Corrupt: as `models.load`.
        """
        return self.store.model(self.release.trained()[0], loader)

    def __repr__(self) -> str:
        if self.release.model is None:
            return f"<release {self.id[:8]} of {self.release.app}: plain service, code {self.release.code[:8]}>"
        scores = ", ".join(f"{k} {v:.4g}" for k, v in self.release.scores.items()) or "no scores"
        tables_ = ", ".join(f"{k}@{v[:8]}" for k, v in self.release.tables.items())
        return (
            f"<release {self.id[:8]} of {self.release.app}: code {self.release.code[:8]}, data {tables_}, "
            f"model {self.release.model[:8]}; {scores}>"
        )


@dataclass(frozen=True)
class KeptTable:
    """A table as the store keeps it; its rows are read when asked for."""

    store: Store
    table: tables.Table

    def to_arrow(self) -> frames.Rows:
        """The rows, as an Arrow table that pyarrow, polars, pandas and DuckDB take without a copy."""
        return tables.read(self.store.objects, self.table)

    def to_pandas(self) -> Any:
        """The rows, as a pandas DataFrame."""
        return frames.to_frame(self.to_arrow(), "pandas")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        parts = self.table.parts
        rows = sum(part.rows for part in parts)
        span = f"{parts[0].since:%Y-%m-%d} .. {parts[-1].until:%Y-%m-%d}" if parts else "empty"
        return f"<table {self.table.source} {self.table.id[:8]}: {rows:,} rows in {len(parts)} parts, {span}>"


class Store:
    """Objects, ledger and key of one folder.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> store.apps(), store.releases()
        ([], [])
        >>> store.close()
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = LocalObjects(root)
        self.ledger = Ledger.open(root / "ledger.db")

    @property
    def key_path(self) -> Path:
        """Where the key lies that seals this store's models."""
        return self.root / "key"

    @cached_property
    def key(self) -> bytes:
        """The key that seals this store's models; made at first use."""
        return models.store_key(self.root)

    @property
    def work(self) -> Path:
        """Checked-out code, jobs under way, remembered answers: all of it may be deleted at any time."""
        return self.root / "work"

    # ------------------------------------------------------------ what is there

    def apps(self) -> list[str]:
        """The apps that this store knows."""
        return self.ledger.apps()

    def app(self, name: str | None = None) -> str:
        """`name`, or the only app there is.

        Raises:
            NotFound: ST471, none or no such one.
            InvalidInput: ST472, several and no name.
        """
        known = self.apps()
        if name is None and len(known) == 1:
            return known[0]
        if name in known and name is not None:
            return name
        if name is None and known:
            raise InvalidInput("ST472", f"This store holds several apps ({', '.join(known)}): say which.", apps=known)
        raise NotFound(
            "ST471",
            f"This store holds no app{f' {name!r}' if name else ''}; there are {', '.join(known) or 'none'}.",
            apps=known,
        )

    def releases(self, app: str | None = None, *, timeline: str | None = LIVE) -> list[KeptRelease]:
        """Every release, oldest first; of the live timeline, or of another one, or (None) of all."""
        seen: dict[str, KeptRelease] = {}
        for ref in self.ledger.refs(app=app, kind="release", timeline=timeline):
            if ref.digest not in seen:
                seen[ref.digest] = self._release(ref.digest)
        return list(seen.values())

    def release(self, id_or_prefix: str) -> KeptRelease:
        """The one release whose id begins so, or the word `champion` for the one that answers.

        Raises:
            NotFound: ST473.    InvalidInput: ST474, several begin so.
        """
        champion = self.champion() if id_or_prefix == "champion" else None
        if champion is not None:
            return champion
        if is_digest(id_or_prefix):
            found = {id_or_prefix} if self.ledger.ref("release", id_or_prefix) else set()
        else:
            found = {r.digest for r in self.ledger.refs(kind="release") if r.digest.startswith(id_or_prefix)}
        if not found or not id_or_prefix:
            raise NotFound(
                "ST473", f"No release has the id {id_or_prefix!r}. `staytrue log` lists them.", id=id_or_prefix
            )
        if len(found) > 1:
            raise InvalidInput(
                "ST474", f"{len(found)} releases begin with {id_or_prefix!r}: give more of the id.", ids=sorted(found)
            )
        return self._release(Digest(found.pop()))

    def release_document(self, id_: Digest) -> Release:
        """The release with this id, recorded or not yet."""
        return Release.from_document(self.objects.get_document(id_))

    def champion(self, app: str | None = None, *, timeline: str = LIVE) -> KeptRelease | None:
        """The release that answers; None before the first one.

        Args:
            app: which app's; by default that of the only one there is.
        """
        role = self.ledger.role(app or self.app(), timeline, "champion")
        return self._release(Digest(role.release)) if role and role.release else None

    def table(self, source: str, *, app: str | None = None, as_of: datetime | None = None) -> KeptTable:
        """The newest version of a source's table, or the one that was the newest at `as_of`.

        Raises:
            NotFound: ST475, nothing was fetched from it.
        """
        known = [r for r in self.ledger.refs(app=app, kind="source", name=source) if as_of is None or r.at <= as_of]
        if not known:
            when = f" by {as_of.isoformat()}" if as_of else ""
            raise NotFound("ST475", f"Nothing was fetched from {source!r}{when}. `staytrue fetch` does.", source=source)
        return KeptTable(self, tables.load(self.objects, known[-1].digest))

    def table_by_id(self, table_id: str) -> KeptTable:
        """The table with this id.

        Raises:
            NotFound: ST475.
        """
        return KeptTable(self, tables.load(self.objects, self.table_manifest(table_id)))

    def table_manifest(self, table_id: str) -> Digest:
        """The manifest of the table with this id. Raises as `table_by_id`."""
        ref = self.ledger.ref("table", table_id)
        if ref is None:
            raise NotFound("ST475", f"No table has the id {table_id[:12]!r}.", id=table_id)
        return ref.digest

    def recipe(self, recipe_id: Digest) -> Recipe:
        """The recipe with this id."""
        return Recipe.from_document(self.objects.get_document(recipe_id))

    def model_of(self, recipe_id: str) -> tuple[Digest, Event] | None:
        """The model that this recipe gave, and the event that tells of its training; None when it was never trained."""
        ref = self.ledger.ref("model", recipe_id)
        if ref is None or not self.objects.has(ref.digest):
            return None
        return ref.digest, self.ledger.events(after=ref.seq - 1, limit=1)[0]

    def seal_of(self, model: str) -> str:
        """The seal under which this store keeps a model.

        Raises:
            Corrupt: ST476, no event tells of its training: it did not come out of this store.
        """
        recipe = self.objects.get_document(Digest(model)).get("recipe")
        for ref in reversed(self.ledger.refs(kind="model", name=recipe)):
            if ref.digest == model:
                return str(self.ledger.events(after=ref.seq - 1, limit=1)[0].body["seal"])
        raise Corrupt(
            "ST476",
            f"No event of this store tells of the training of model {model[:12]}: it is not loaded.",
            model=model,
        )

    def model(self, model: str, loader: Callable[[bytes], Any] | None = None) -> Any:
        """The model with this digest, loaded into this process, by `loader` when the app's `@app.save` wrote it."""
        return models.load(self.objects, Digest(model), self.seal_of(model), self.key, loader)

    def traffic(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        app: str | None = None,
        known_by: datetime | None = None,
    ) -> Traffic:
        """The predictions made from `since` to before `until`, joined to the labels known by then.

        Args:
            known_by: labels that arrived before it count; left out: `until`, or all there are.

        Raises:
            InvalidInput: ST710, a time without a time zone; ST472.    NotFound: ST471.
        """
        times = {"since": since, "until": until, "known_by": known_by}
        for name, time in times.items():
            if time is not None and time.tzinfo is None:
                raise InvalidInput(
                    "ST710", f"Can't read traffic: {name}={time} has no time zone; give UTC.", field=name
                )
        return Traffic(
            objects=self.objects,
            ledger=self.ledger,
            app=self.app(app),
            since=since,
            until=until,
            known_by=until if known_by is None else known_by,
        )

    def close(self) -> None:
        """Give back every connection."""
        self.ledger.close()

    def _release(self, id_: Digest) -> KeptRelease:
        return KeptRelease(self, id_, self.release_document(id_))

    def __repr__(self) -> str:
        return f"<staytrue store {self.root}: {', '.join(self.apps()) or 'no app yet'}>"
