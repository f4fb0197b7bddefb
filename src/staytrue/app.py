"""App: what a user writes. Plain functions, named by decorators; nothing here runs them."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from staytrue.errors import InvalidInput, NotFound
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.duration import duration
from staytrue.kernel.examples import Example, checked_examples
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.policy import Policy, Settings
from staytrue.kernel.rollout import steps
from staytrue.kernel.signature import Action, checked_inputs

__all__ = ["App", "Source", "load", "located"]

F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_SPECIAL = ("params", "seed", "previous")
FrameKind = Literal["pandas", "polars", "pyarrow", "arro3", "dicts"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One `@app.data` function and what was said of it."""

    spec: SourceSpec
    function: Callable[..., Any]


@dataclass(kw_only=True)
class _Training:
    function: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(kw_only=True)
class _Prediction:
    function: Callable[..., Any] | None
    metric: str | Callable[..., Any]
    segments: tuple[str, ...] = ()
    output: Any = None
    inputs: Mapping[str, Mapping[str, Action]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()


class App:
    """An app: where its data comes from, how it trains, how it answers. Without data and training, a plain service.

    Args:
        name: `[a-z0-9-]{1,63}`; what the app is called everywhere.

    Raises:
        InvalidInput: ST102, a name that is not allowed.

    Example:
        >>> app = App("hotel-rates")
        >>> @app.data(time="at", key="id", label="rate")
        ... def bookings(since, until):
        ...     return []
        >>> @app.train
        ... def fit(bookings):
        ...     return float(bookings["rate"].mean())
        >>> @app.predict(metric="mae")
        ... def quote(model, rows):
        ...     return [model] * len(rows)
        >>> app
        App('hotel-rates': data bookings -> train fit -> predict quote, mae)
        >>> adder = App("adder")
        >>> @adder.predict(examples=[{"a": 1.5, "b": 2.0}])
        ... def add(rows):
        ...     return [row["a"] + row["b"] for row in rows]
        >>> adder
        App('adder': plain service, predict add)
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(
                "ST102",
                f"An app can't be called {name!r}: expected 1 to 63 of a-z, 0-9 and '-', such as 'hotel-rates'.",
                got=repr(name),
            )
        self.name = name
        self.sources: dict[str, Source] = {}
        self.settings = Settings()
        self.retraining: Policy | None = None
        """The user's own retraining policy, when there is one."""
        self.saver: Callable[[Any], bytes] | None = None
        self.loader: Callable[[bytes], Any] | None = None
        self._training: _Training | None = None
        self._prediction: _Prediction | None = None

    # ------------------------------------------------------------ what the user declares

    def data(
        self,
        *,
        time: str | None = None,
        key: str | None = None,
        label: str | None = None,
        every: str = "1d",
        label_after: str = "0s",
        features: Sequence[str] | None = None,
        snapshot: bool = False,
    ) -> Callable[[F], F]:
        """Name a function as a source: `(since, until)` in, the rows with `since <= time < until` out.

        Args:
            time: the column that says when a row happened; aware timestamps, or dates (midnight UTC).
            key: the column that tells rows apart.
            label: the column to predict; a null means: not known yet. Exactly one source of an app has one.
            every: how often new rows come; also the length of one part.
            label_after: how long after `time` the label is known.
            features: the columns that training and predictions see; training sees the label too. Left out: every column but time
                and key (a source without label keeps them, to be joined by). What is known only after the fact must not be
                among them; time is, when it is listed.
            snapshot: the function takes no argument and gives everything as of now.

        Raises:
            InvalidInput: ST110, an argument that does not fit.
        """
        self._check_source(time=time, key=key, label=label, snapshot=snapshot)
        span, after = duration(every, what="every"), duration(label_after, what="label_after")
        if span.total_seconds() <= 0:
            raise InvalidInput(
                "ST110", f"@app.data(every={every!r}): expected a span above 0, such as '1d'.", app=self.name
            )

        def register(function: F) -> F:
            name = _function_name(function, "@app.data")
            if name in self.sources or name in _SPECIAL:
                raise InvalidInput(
                    "ST110", f"@app.data: the name {name!r} is taken; give this source another name.", source=name
                )
            _check_arity(
                function, 0 if snapshot else 2, "() for a snapshot" if snapshot else "(since, until)", "@app.data"
            )
            spec = SourceSpec(
                name=name,
                time=time,
                key=key,
                label=label,
                every=span,
                label_after=after,
                features=tuple(features) if features is not None else None,
                snapshot=snapshot,
            )
            self.sources[name] = Source(spec=spec, function=function)
            return function

        return register

    def _check_source(self, *, time: str | None, key: str | None, label: str | None, snapshot: bool) -> None:
        for argument, value in (("time", time), ("key", key), ("label", label)):
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidInput(
                    "ST110", f"@app.data({argument}={value!r}): expected the name of a column.", app=self.name
                )
        if not snapshot and (not time or not key):
            missing = "time" if not time else "key"
            raise InvalidInput(
                "ST110", f"@app.data needs {missing}=: the name of the column that says "
                f"{'when a row happened' if missing == 'time' else 'which row is which'}.", app=self.name,
            )  # fmt: skip
        if label and any(s.spec.label for s in self.sources.values()):
            raise InvalidInput(
                "ST110", "Two sources have label=; exactly one may: the one that predictions are about.", app=self.name
            )
        if label and snapshot:
            raise InvalidInput(
                "ST110", "A snapshot source can't have a label: its rows have no time of their own.", app=self.name
            )

    @overload
    def train(self, function: F) -> F: ...
    @overload
    def train(self, *, params: Mapping[str, Any] | None = None, seed: int = 0) -> Callable[[F], F]: ...
    def train(self, function: F | None = None, *, params: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
        """Name the function that trains. Its parameters are named after sources and receive their rows as a frame.

        pandas by default, or what the annotation says (`pl.DataFrame`, `pa.Table`). A parameter `params` receives the settings
        given here, `seed` the int, `previous` the champion's model (None at first). It gives back any object.
        """

        def register(function: F) -> F:
            if self._training is not None:
                raise InvalidInput("ST111", "@app.train stands twice; an app has one way to train.", app=self.name)
            _function_name(function, "@app.train")
            self._training = _Training(function=function, params=dict(params or {}), seed=seed)
            return function

        return register(function) if function is not None else register

    @overload
    def predict(self, function: F) -> F: ...
    @overload
    def predict(
        self,
        *,
        metric: str | Callable[..., Any] | None = None,
        segments: Sequence[str] = (),
        output: Any = None,
        inputs: Mapping[str, Any] | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Callable[[F], F]: ...
    def predict(
        self,
        function: F | None = None,
        *,
        metric: str | Callable[..., Any] | None = None,
        segments: Sequence[str] = (),
        output: Any = None,
        inputs: Mapping[str, Any] | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Any:
        """Name the function that answers: `(model, rows) -> one answer per row`.

        In a plain service, an app without `@app.data` and `@app.train`, it is `(rows) -> one answer per row`. There the rows are
        a list of dicts, or what the annotation says (`pd.DataFrame`, `pl.DataFrame`, `pa.Table`).

        May be `async`. An `async` generator is given one row at a time and yields its answer in pieces, which a client may read
        as they come: texts are joined, anything else becomes a list.

        Args:
            metric: `mae`, `rmse`, `mape`, `pinball:0.9`, `log_loss`, `brier`, `error_rate`, `ndcg@10`, `hit@10`, or a function
                `(answers, labels, rows) -> losses`, one finite number a row, lower is better.
            segments: columns; a challenger that is worse in one of their values is not let in.
            inputs: what to do when a request is not like training: column (or `*` for all) -> `refuse`, `flag` or `accept`,
                or a dict of them by fault: `missing`, `extra`, `null`, `nonfinite`, `range`, `unit`, `category`.
            examples: of a plain service, and of no other app: 1 to 32 requests. They tell which columns a request has and of
                which types; every release must answer them, and give the same answers whenever it is loaded again.

        Raises:
            InvalidInput: ST112, it stands twice, or segments is no list; ST753, inputs that mean nothing; ST867, examples
                that are no requests.
        """
        requests = () if examples is None else checked_examples(examples)
        self._set_prediction(metric, segments, output, checked_inputs(inputs or {}), requests)

        def register(function: F) -> F:
            _function_name(function, "@app.predict")
            if not _takes(function, 1):
                _check_arity(function, 2, "(model, rows), or (rows) in a plain service", "@app.predict")
            if self._prediction is None or self._prediction.function is not None:
                raise InvalidInput("ST112", "@app.predict stands twice; an app has one way to answer.", app=self.name)
            self._prediction.function = function
            return function

        return register(function) if function is not None else register

    def _set_prediction(
        self,
        metric: str | Callable[..., Any] | None,
        segments: Sequence[str],
        output: Any,
        inputs: Mapping[str, Mapping[str, Action]],
        examples: tuple[Example, ...],
    ) -> None:
        if self._prediction is not None:
            raise InvalidInput("ST112", "@app.predict stands twice; an app has one way to answer.", app=self.name)
        if isinstance(segments, str) or not all(isinstance(s, str) for s in segments):
            raise InvalidInput(
                "ST112", f"@app.predict(segments={segments!r}): expected a list of column names.", app=self.name
            )
        read_metric(metric or "mae")
        self._prediction = _Prediction(
            function=None,
            metric=metric or "mae",
            segments=tuple(segments),
            output=output,
            inputs=inputs,
            examples=examples,
        )

    def save(self, function: F) -> F:
        """Name the function that turns a model into bytes, for one that pickle serves badly."""
        self.saver = function
        return function

    def load(self, function: F) -> F:
        """Name the function that turns those bytes into a model again."""
        self.loader = function
        return function

    def policy(self, function: Policy | None = None, /, **settings: Any) -> None:
        """Change settings of the loop (`retrain`, `window`, `trial`, ...), or hand in a function that decides when to retrain.

        Raises:
            InvalidInput: ST106, ST104, ST107: an unknown setting or a value that does not fit, each named.
        """
        if function is not None:
            if not callable(function):
                raise InvalidInput(
                    "ST104", f"app.policy({function!r}): expected a function or keyword settings.", app=self.name
                )
            self.retraining = function
        known = {f.name for f in fields(Settings)}
        for name in settings:
            if name not in known:
                raise InvalidInput(
                    "ST106", f"app.policy has no setting {name!r}; there are {', '.join(sorted(known))}.", setting=name
                )
        self.settings = replace(self.settings, **settings).checked()
        steps(self.settings.trial)

    # ------------------------------------------------------------ what the loop asks

    @property
    def labelled(self) -> Source | None:
        """The source that predictions are about; None in a plain service."""
        return next((s for s in self.sources.values() if s.spec.label), None)

    @property
    def is_service(self) -> bool:
        """Whether it is a plain service: it answers, and neither fetches nor trains."""
        return self._training is None and not self.sources

    @property
    def examples(self) -> tuple[Example, ...]:
        """Requests to a plain service, as its author gave them."""
        return self._prediction.examples if self._prediction else ()

    @property
    def metric(self) -> str | Callable[..., Any]:
        """The loss that this app is judged by."""
        return self._prediction.metric if self._prediction else "mae"

    @property
    def segments(self) -> tuple[str, ...]:
        """The columns whose values are judged one by one."""
        return self._prediction.segments if self._prediction else ()

    @property
    def input_actions(self) -> Mapping[str, Mapping[str, Action]]:
        """What the app says to do about requests that are not like training: column -> fault -> action."""
        return self._prediction.inputs if self._prediction else {}

    @property
    def params(self) -> Mapping[str, Any]:
        """The settings that training receives as `params`."""
        return self._training.params if self._training else {}

    @property
    def seed(self) -> int:
        """The seed that training receives."""
        return self._training.seed if self._training else 0

    @property
    def trainer(self) -> Callable[..., Any]:
        """The function that trains.

        Raises:
            InvalidInput: ST111, the app has none.
        """
        if self._training is None:
            raise InvalidInput(
                "ST111", f"App {self.name!r} has no @app.train: there is nothing to train.", app=self.name
            )
        return self._training.function

    @property
    def answerer(self) -> Callable[..., Any]:
        """The function that answers; `model.predict(rows)` where the app names none."""
        named = self._prediction.function if self._prediction else None
        return named or (lambda model, rows: model.predict(rows))

    def ask(self, model: Any, rows: Any) -> Any:
        """What the function that answers gives for these rows. A plain service is asked without a model."""
        return self.answerer(rows) if self.is_service else self.answerer(model, rows)

    @property
    def rows_kind(self) -> FrameKind:
        """As what the function that answers gets its rows: as training does; in a plain service as its annotation says."""
        if not self.is_service:
            return self.inputs().get(self.labelled.spec.name, "pandas") if self.labelled else "pandas"
        annotation = next(iter(inspect.signature(self.answerer).parameters.values())).annotation
        return "dicts" if annotation is inspect.Parameter.empty else _frame_of(annotation, "@app.predict")

    def inputs(self) -> dict[str, FrameKind]:
        """What `@app.train` asks for: source -> kind of frame, in the order of its parameters.

        Raises:
            InvalidInput: ST111, a parameter that is no source.
        """
        asked: dict[str, FrameKind] = {}
        for name, parameter in inspect.signature(self.trainer).parameters.items():
            if name in _SPECIAL:
                continue
            if name not in self.sources:
                known = ", ".join([*self.sources, *_SPECIAL]) or "none"
                raise InvalidInput(
                    "ST111",
                    f"@app.train asks for {name!r}, which is no source; there are {known}.",
                    parameter=name,
                    app=self.name,
                )
            asked[name] = _frame_of(parameter.annotation, "@app.train")
        return asked

    @property
    def wants_previous(self) -> bool:
        """Whether training starts from the champion's model."""
        return "previous" in inspect.signature(self.trainer).parameters

    def check(self) -> App:
        """This app, or the first thing that is wrong with it as a whole.

        Raises:
            InvalidInput: ST109 (no labelled source), ST111 (train), ST113 (a segment that is label or time), ST116 (predict),
                ST868 (examples that are missing, or given for nothing).
        """
        if self.is_service:
            self._check_service()
            return self
        if self.labelled is None:
            raise InvalidInput(
                "ST109",
                f"App {self.name!r} trains, but no source has label=: name the column to predict in one @app.data.",
                app=self.name,
            )
        self.inputs()
        spec = self.labelled.spec
        for segment in self.segments:
            if segment in (spec.label, spec.time):
                role = "label" if segment == spec.label else "time"
                raise InvalidInput("ST113", f"Segment {segment!r} is the {role} of {spec.name}.", segment=segment)
        if self._prediction and self._prediction.function:
            _check_arity(self._prediction.function, 2, "(model, rows)", "@app.predict")
        if self.examples:
            raise InvalidInput(
                "ST868",
                f"App {self.name!r} trains, so that {spec.name} tells what requests look like: leave out "
                "@app.predict(examples=...), which is for plain services.",
                app=self.name,
            )
        return self

    def _check_service(self) -> None:
        if self._prediction is None or self._prediction.function is None:
            return
        function = self._prediction.function
        if not _takes(function, 1):
            raise InvalidInput(
                "ST116",
                f"@app.predict: {function.__name__}{inspect.signature(function)} asks for a model, and app {self.name!r} has no "
                "@app.train that would give one: take (rows), or add @app.data and @app.train.",
                function=function.__name__,
            )
        if not self.examples:
            raise InvalidInput(
                "ST868",
                f"App {self.name!r} is a plain service: nothing tells what its requests look like. Give one or more as "
                f'@app.predict(examples=[{{"a": 1.5, "b": 2}}]) on {function.__name__}.',
                app=self.name,
            )
        known = {name for row in self.examples for name in row}
        for segment in self.segments:
            if segment not in known:
                raise InvalidInput("ST113", f"Segment {segment!r} is in no example.", segment=segment)
        _ = self.rows_kind

    def __repr__(self) -> str:
        if self.is_service and self._prediction and self._prediction.function:
            return f"App({self.name!r}: plain service, predict {self.answerer.__name__})"
        trains = f" -> train {self._training.function.__name__}" if self._training else ""
        answers = f" -> predict {self.answerer.__name__}, {self.metric}" if self._prediction else ""
        return f"App({self.name!r}: data {', '.join(self.sources) or 'none'}{trains}{answers})"


def located(where: str) -> tuple[Path, str]:
    """The file that `PATH[:NAME]` names (a folder means the app.py in it), and the name; nothing is imported.

    Raises:
        NotFound: ST114, no such file.
    """
    path_text, _, name = where.partition(":") if not re.match(r"^[A-Za-z]:[\\/]", where) else (where, "", "")
    path = Path(path_text).resolve()
    if path.is_dir():
        path /= "app.py"
    if not path.is_file():
        raise NotFound(
            "ST114",
            f"No app at {path}: expected a Python file with an App in it. `staytrue new DIR` makes one.",
            path=str(path),
        )
    return path, name


def load(where: str) -> tuple[App, Path]:
    """The App that `PATH[:NAME]` names, and its file. The file's folder goes first on the import path, as for `python FILE`.

    Raises:
        NotFound: ST114, no such file, or no App of that name in it.
        InvalidInput: ST115, the file does not import, or holds several Apps and no NAME was given.
    """
    path, name = located(where)
    module = _import(path)
    apps = {n: v for n, v in vars(module).items() if isinstance(v, App)}
    if name:
        if name not in apps:
            raise NotFound(
                "ST114", f"{path} has no App called {name!r}; there are {', '.join(apps) or 'none'}.", path=str(path)
            )
        return apps[name].check(), path
    if len({id(a) for a in apps.values()}) != 1:
        found = ", ".join(apps) or "none"
        raise InvalidInput(
            "ST115", f"{path} should hold one App; found {found}. Say which: --app {path.name}:NAME.", path=str(path)
        )
    return next(iter(apps.values())).check(), path


def _import(path: Path) -> Any:
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidInput("ST115", f"{path} is no Python file.", path=str(path))
    module = importlib.util.module_from_spec(spec)
    # Registered under its own name, so that classes it defines are found again when a model is unpickled.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except InvalidInput:
        raise
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        raise InvalidInput(
            "ST115",
            f"{path} does not import: {type(exc).__name__}: {exc}. Try `python {path.name}` in its folder.",
            path=str(path),
        ) from exc
    return module


def _function_name(function: Any, decorator: str) -> str:
    if not callable(function) or not hasattr(function, "__name__"):
        raise InvalidInput("ST116", f"{decorator} stands on {function!r}; expected a function.", decorator=decorator)
    return str(function.__name__)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether so many positional arguments can be given."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required) <= count <= len(positional)


def _check_arity(function: Callable[..., Any], count: int, expected: str, decorator: str) -> None:
    if not _takes(function, count):
        raise InvalidInput(
            "ST116",
            f"{decorator}: {function.__name__}{inspect.signature(function)} should take {expected}.",
            function=function.__name__,
        )


def _frame_of(annotation: Any, decorator: str) -> FrameKind:
    """The kind of frame that an annotation asks for, read by its module's name, so that no library is loaded to look."""
    text = (
        annotation
        if isinstance(annotation, str)
        else f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__name__', '')}"
    )
    if annotation is inspect.Parameter.empty or text.startswith(("pd.", "pandas.")):
        return "pandas"
    if text.startswith(("pl.", "polars.")):
        return "polars"
    if text.startswith(("pa.", "pyarrow.")):
        return "pyarrow"
    if text.startswith("arro3."):
        return "arro3"
    if re.match(r"((builtins|typing|collections\.abc)\.)?(list|List|Sequence)\b", text):
        return "dicts"
    raise InvalidInput(
        "ST111",
        f"{decorator}: can't give rows as {text}; expected pd.DataFrame, pl.DataFrame, pa.Table or list[dict].",
        annotation=text,
    )
