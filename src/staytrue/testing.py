"""Testing: an app on a bench, for its own tests. The real loop, in a store of its own, on a clock that the test sets.

    from pathlib import Path
    from staytrue import testing

    def test_a_quote_is_positive():
        with testing.bench(Path(__file__).with_name("app.py")) as bench:
            bench.fetch("2016-01-01", "2016-07-01")
            bench.train()
            assert min(bench.answers(some_rows)) > 0

Nothing is faked but the clock: sources are held against their contract, trainings run as jobs in processes of their own, answers
come from the bytes of the model that was stored.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytrue.app import App
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput, NotFound
from staytrue.loop.context import Context, open_context
from staytrue.loop.deliver import Delivered, train_by_hand
from staytrue.loop.fetch import Fetched, fetch
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.replay import replay
from staytrue.loop.service import deliver_service
from staytrue.loop.tasks import checked_answers, example_rows
from staytrue.store import frames
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import KeptRelease, Store

__all__ = ["Bench", "Training", "bench", "moment"]


@contextmanager
def bench(app: App | str | Path, tmp_path: Path | None = None) -> Iterator[Bench]:
    """An app on a bench; what it leaves behind is gone afterwards.

    Args:
        app: the path of its file (`PATH` or `PATH:NAME`), or the App itself, whose file is looked up: jobs import it by path, so
            it must stand at the top of a module.
        tmp_path: where the store goes, for a test that wants to look into it or to open a second bench on it; by default a
            folder that is deleted at the end.

    Raises:
        NotFound: ST114, no such file or no App of that name in it.
        InvalidInput: ST115, the file does not import or holds several Apps; ST702, the App stands in no file.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "app.py").write_text('''
        ... from datetime import timedelta
        ... from staytrue import App
        ...
        ... app = App("doubled")
        ...
        ... @app.data(time="at", key="id", label="y")
        ... def numbers(since, until):
        ...     days = range((until - since).days)
        ...     return [{"at": since + timedelta(days=d), "id": d, "x": d, "y": 2.0 * d} for d in days]
        ...
        ... @app.train
        ... def fit(numbers):
        ...     return float(numbers["y"].sum() / numbers["x"].sum())
        ...
        ... @app.predict(metric="mae")
        ... def double(model, rows):
        ...     return model * rows["x"]
        ... ''')
        >>> with bench(folder / "app.py") as shop:
        ...     fetched = shop.fetch("2026-01-01", "2026-04-01")
        ...     training = shop.train()
        ...     fetched.rows, training.model, shop.answers([{"x": 3}]), [event.kind for event in shop.log()]
        (90, 2.0, [6.0], ['fetched', 'deployed'])
    """
    where, module = _where(app)
    with tempfile.TemporaryDirectory(prefix="staytrue-bench-") as own, _imports_as_found(module):
        ctx = open_context(where, (tmp_path or Path(own)) / "store")
        try:
            with ProcessPool(ctx.store.work / "jobs") as pool:
                yield Bench(ctx, pool)
        finally:
            ctx.store.close()


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training gave: the model itself, and what the gate said to it."""

    model: Any
    trained: bool
    """False: this recipe was trained before, its model came from the store."""
    rows: int
    """Labelled rows that it was trained on."""
    delivered: Delivered | None
    """The release and what became of it; None: the champion is this code and this model already."""

    @property
    def promoted(self) -> bool:
        """Whether its release is champion now because of this training."""
        return self.delivered is not None and self.delivered.promoted


class Bench:
    """One app, one store, one clock: what `bench(...)` gives.

    `now` is the clock: where the newest fetch ended. Nothing after it is fetched, trained on or lived through.
    """

    def __init__(self, ctx: Context, pool: ProcessPool) -> None:
        self._ctx = ctx
        self._pool = pool
        self.now: datetime | None = None

    @property
    def app(self) -> App:
        """The app, as its file holds it."""
        return self._ctx.app

    @property
    def store(self) -> Store:
        """The store, for questions that the bench has no short way for."""
        return self._ctx.store

    def fetch(self, since: datetime | str, until: datetime | str, *, source: str | None = None) -> Fetched:
        """Ask the sources for the rows of that time, and put the clock at its end.

        Args:
            since, until: moments, or their ISO text such as `2016-07-01`; without a zone, UTC is meant.
            source: only this one. By default all are asked, the labelled one last.

        Returns:
            What the source brought (without `source`: the last of them), quarantine and breaches of the contract included.

        Raises:
            Unavailable: ST621, the source raised. InvalidInput: ST622, it gave no rows at all.
        """
        begin, end = moment(since), moment(until)
        self.now = max(end, self.now or end)
        names = [source] if source else sorted(self.app.sources, key=lambda n: bool(self.app.sources[n].spec.label))
        if not names:
            raise NotFound("ST620", f"App {self.app.name} has no source: there is nothing to fetch.", app=self.app.name)
        found = [
            drive({name: fetch(self._ctx, name, now=self.now, since=begin, until=end)}, self._pool)[name]
            for name in names
        ]
        return found[-1]

    def train(self, *, now: bool = False) -> Training:
        """Train on all that was fetched, in a process of its own, and put the release through the gate.

        Args:
            now: make it champion without a trial.

        Raises:
            NotFound: ST475, nothing was fetched. InvalidInput, Refused: what the training raised, or why there is no model.
        """
        steps = train_by_hand(self._ctx, Past.whole(self._ctx), now=now)
        delivered, trained = drive({"train": steps}, self._pool)["train"]
        return Training(
            model=self.store.model(trained.model, self.app.loader),
            trained=trained.ran,
            rows=trained.rows,
            delivered=delivered,
        )

    def deploy(self, *, now: bool = False) -> Delivered | None:
        """Make a release of a plain service's code, in a process of its own, and let it in as `staytrue deploy` would.

        Args:
            now: make it champion without a trial.

        Returns:
            What became of it; None: the champion is this code already.

        Raises:
            InvalidInput: ST870, the app is no plain service. What its function raised, or why its answers are none.
        """
        return drive({"deploy": deliver_service(self._ctx, now=now)}, self._pool)["deploy"]

    def answers(self, rows: Any, *, release: str | None = None) -> list[Any]:
        """What a release answers to rows, one plain value each, checked as a server would check it.

        The model sees what it would see in service: the table's types and the declared features, without the label.

        Args:
            rows: any frame, or a list of dicts. Columns that an answer may not use (time, label, no feature) may be left out.
            release: the beginning of a release's id; by default the champion.

        Raises:
            NotFound: ST703, there is no champion yet. InvalidInput: ST207, a feature is missing or of another type; ST303 to
            ST306, the answers are not one finite value a row.
        """
        kept = self.release(release)
        given = self._as_served(frames.to_rows(rows, doing="read the rows to answer"))
        frame = frames.to_frame(given, self.app.rows_kind)
        model = None if kept.release.is_service else kept.model(self.app.loader)
        return checked_answers(self.app, model, frame, given.num_rows)

    def _as_served(self, rows: frames.Rows) -> frames.Rows:
        if self.app.is_service:
            return self._as_exemplified(rows)
        spec = self._labelled().spec
        types = dict(self.store.table(spec.name, app=self.app.name).table.schema)
        seen = spec.features or [name for name in types if name not in {spec.time, spec.key, spec.label}]
        return frames.conform(rows, tuple((name, types[name]) for name in seen))

    def _as_exemplified(self, rows: frames.Rows) -> frames.Rows:
        schema = frames.schema(example_rows(self.app))
        may_be_left_out = {name for name, _ in schema if any(name not in row for row in self.app.examples)}
        absent = may_be_left_out - set(rows.column_names)
        nothing = {name: [None] * rows.num_rows for name in absent}
        given = (
            frames.to_rows({**frames.to_pydict(rows), **nothing}, doing="read the rows to answer") if absent else rows
        )
        return frames.conform(given, schema)

    def replay(
        self,
        policies: Sequence[str] = ("payback",),
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> dict[str, Any]:
        """Live through what was fetched, once per policy: the document that `staytrue replay --json` prints.

        The first policy's story is the app's own when it has none yet: its last champion is `release()`, its events are `log()`.

        Args:
            policies: such as `payback`, `never`, `every:7d`; `app` is the app's own function.
            since: first day to live through; by default from where a fifth of the rows is history. until: where to stop.

        Raises:
            InvalidInput: ST601, too little past; ST104, an unknown policy; what the first training raises.
        """
        role = self.store.ledger.role(self.app.name, LIVE, "champion")
        return replay(
            self._ctx,
            policies,
            since=None if since is None else moment(since),
            until=None if until is None else moment(until),
            live=policies[0] if role is None and policies else None,
        )

    def release(self, id_or_prefix: str | None = None) -> KeptRelease:
        """The champion, or the release whose id begins so.

        Raises:
            NotFound: ST703, there is no champion yet; ST473, no such release.
        """
        if id_or_prefix is not None:
            return self.store.release(id_or_prefix)
        role = self.store.ledger.role(self.app.name, LIVE, "champion")
        if role is None or role.release is None:
            raise NotFound(
                "ST703",
                f"{self.app.name} has no champion yet: `bench.{'deploy' if self.app.is_service else 'train'}()` makes one.",
                app=self.app.name,
            )
        return self.store.release(role.release)

    def log(self, kind: str | None = None, *, timeline: str | None = None) -> list[Event]:
        """What happened, oldest first: fetches and the live timeline, or another one; only events of `kind` when given."""
        events = self.store.ledger.events(self.app.name, timeline, kinds=[kind] if kind else None)
        return [e for e in events if timeline is not None or e.timeline in (LIVE, "data")]

    def _labelled(self) -> Any:
        found = self.app.check().labelled
        if found is None:
            raise InvalidInput("ST109", f"App {self.app.name!r} has no source with label=.", app=self.app.name)
        return found

    def __repr__(self) -> str:
        clock = f"{self.now:%Y-%m-%d %H:%M} UTC" if self.now else "nothing fetched yet"
        return f"<bench of {self.app!r}: {clock}>"


def moment(given: datetime | str) -> datetime:
    """An aware UTC moment from a datetime or its ISO text; without a zone, UTC is meant.

    Raises:
        InvalidInput: ST701, not a moment.

    Example:
        >>> moment("2016-07-01T02:00+02:00").isoformat()
        '2016-07-01T00:00:00+00:00'
    """
    try:
        found = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise InvalidInput(
            "ST701", f"Can't read the moment {given!r}: expected something like 2016-07-01 or a datetime.", got=given
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


# ---------------------------------------------------------------- where an app's file is


def _where(app: App | str | Path) -> tuple[str, str]:
    """`PATH[:NAME]` of an app, and the name that its module is imported under."""
    if not isinstance(app, App):
        text = str(app)
        path = Path(text.partition(":")[0]) if not Path(text).exists() else Path(text)
        return text, "app" if path.is_dir() else path.stem
    functions = [s.function for s in app.sources.values()] or [app.answerer]
    for function in functions:
        module = sys.modules.get(function.__module__)
        file = inspect.getsourcefile(function)
        names = [name for name, value in vars(module).items() if value is app] if module else []
        if file and names:
            return f"{file}:{names[0]}", Path(file).stem
    raise InvalidInput(
        "ST702",
        f"Can't find the file of {app!r}: expected it at the top of a module, beside its functions, where a job can import it. "
        "Or give the path of its file.",
        app=app.name,
    )


@contextmanager
def _imports_as_found(module: str) -> Iterator[None]:
    """Import path and module as they were before: two tests may each have an app in a file called app.py."""
    path, known = list(sys.path), sys.modules.get(module)
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.pop(module, None)
        if known is not None:
            sys.modules[module] = known
