"""Described: an app known by what its decorators were told, so that code which has proven nothing is imported in jobs only.

A job imports the code and says what it declares; here an App is told the same. It can be trained, compared and delivered as
any other, since a user's functions run in jobs anyway. Only a metric or policy of the user's own is asked in the loop's process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from staytrue.app import App
from staytrue.kernel.examples import read, written

__all__ = ["app_of", "document_of"]

_FRAMES = {
    "pandas": "pd.DataFrame",
    "polars": "pl.DataFrame",
    "pyarrow": "pa.Table",
    "arro3": "arro3.Table",
    "dicts": "list",
}
_NO_FUNCTION = "<lambda>"


def document_of(app: App) -> dict[str, Any]:
    """What an app declares, as JSON; a metric of its own is null.

    Example:
        >>> app = App("adder")
        >>> @app.predict(examples=[{"a": 1.5}])
        ... def add(rows):
        ...     return [row["a"] for row in rows]
        >>> app_of(document_of(app))
        App('adder': plain service, predict add)
    """
    return {
        "name": app.name,
        "sources": [_source(app, name) for name in app.sources],
        "training": None if app.is_service else _training(app),
        "prediction": _prediction(app),
        "settings": {field.name: getattr(app.settings, field.name) for field in fields(app.settings)},
        "decides_itself": app.retraining is not None,
    }


def _source(app: App, name: str) -> dict[str, Any]:
    spec = app.sources[name].spec
    return {
        "name": name,
        "time": spec.time,
        "key": spec.key,
        "label": spec.label,
        "every": _span(spec.every.total_seconds()),
        "label_after": _span(spec.label_after.total_seconds()),
        "features": list(spec.features) if spec.features is not None else None,
        "snapshot": spec.snapshot,
    }


def _span(seconds: float) -> str:
    return f"{seconds:.6f}s"


def _training(app: App) -> dict[str, Any]:
    kinds = app.inputs()
    return {
        "name": app.trainer.__name__,
        "parameters": [[name, kinds.get(name)] for name in inspect.signature(app.trainer).parameters],
        "params": dict(app.params),
        "seed": app.seed,
    }


def _prediction(app: App) -> dict[str, Any]:
    name = getattr(app.answerer, "__name__", _NO_FUNCTION)
    return {
        "name": None if name == _NO_FUNCTION else name,
        "rows": app.rows_kind if name != _NO_FUNCTION else "pandas",
        "metric": None if callable(app.metric) else app.metric,
        "segments": list(app.segments),
        "inputs": {column: dict(said) for column, said in app.input_actions.items()},
        "examples": written(app.examples) or None,
    }


def app_of(document: Mapping[str, Any], *, metric: str | Callable[..., Any] | None = None) -> App:
    """An App that was told the same. Its functions can't be called: they are elsewhere.

    Args:
        metric: what it is judged by, where the document has none or another one is meant.
    """
    app = App(document["name"])
    app.policy(**document["settings"])
    if document["decides_itself"]:
        app.policy(_elsewhere("policy", [("known", None)]))
    for source in document["sources"]:
        asked = [] if source["snapshot"] else [("since", None), ("until", None)]
        app.data(**{name: value for name, value in source.items() if name != "name"})(_elsewhere(source["name"], asked))
    training = document["training"]
    if training:
        function = _elsewhere(training["name"], training["parameters"])
        app.train(params=training["params"], seed=training["seed"])(function)
    said = document["prediction"]
    register = app.predict(
        metric=metric or said["metric"],
        segments=said["segments"],
        inputs=said["inputs"],
        examples=read(said["examples"]) if said["examples"] else None,
    )
    if said["name"]:
        rows = ("rows", said["rows"])
        register(_elsewhere(said["name"], [("model", None), rows] if training else [rows]))
    return app.check()


def _elsewhere(name: str, parameters: Sequence[Sequence[Any]]) -> Callable[..., Any]:
    """A function of that name and signature, for what `App` reads of it."""

    def function(*_: Any, **__: Any) -> Any:
        message = f"{name} runs in jobs only"
        raise NotImplementedError(message)

    function.__name__ = name
    empty = inspect.Parameter.empty
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=_FRAMES[kind] if kind else empty
            )
            for parameter, kind in parameters
        ]
    )
    return function
