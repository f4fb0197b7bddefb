"""An app told what another one declares is, for all that the loop asks of it, the same app."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from staytrue.app import App
from staytrue.loop.described import app_of, document_of


def an_app() -> App:
    app = App("hotel-rates")
    app.policy(retrain="every:7d", holdout=50, memory_mb=512, trial="backtest, canary:10%")

    @app.data(time="at", key="id", label="rate", every="90m", label_after="2d", features=["size", "city"])
    def bookings(since, until):
        return []

    @app.data(snapshot=True)
    def hotels():
        return []

    @app.train(params={"depth": 6}, seed=3)
    def fit(bookings, hotels: pl.DataFrame, params, seed, previous):  # noqa: F821 - read as text, never resolved
        return None

    @app.predict(metric="pinball:0.9", segments=["city"], inputs={"size": {"range": "refuse"}})
    def quote(model, rows):
        return rows

    return app


def test_what_is_said_and_told_again_is_the_same_in_json_too():
    app = an_app()

    told = app_of(json.loads(json.dumps(document_of(app))))

    assert repr(told) == repr(app)
    assert {name: source.spec for name, source in told.sources.items()} == {
        name: source.spec for name, source in app.sources.items()
    }
    assert told.inputs() == app.inputs() == {"bookings": "pandas", "hotels": "polars"}
    assert (dict(told.params), told.seed, told.wants_previous) == ({"depth": 6}, 3, True)
    assert (told.metric, told.segments, told.input_actions) == (app.metric, app.segments, app.input_actions)
    assert asdict(told.settings) == asdict(app.settings)
    assert document_of(told) == document_of(app)


def test_its_functions_can_not_be_called_here():
    told = app_of(document_of(an_app()))

    with pytest.raises(NotImplementedError, match="fit runs in jobs only"):
        told.trainer()
    with pytest.raises(NotImplementedError):
        told.sources["bookings"].function(None, None)


def test_it_is_judged_by_the_metric_it_is_given():
    def mine(answers, labels, rows):
        return abs(answers - labels)

    document = document_of(an_app())

    assert app_of(document, metric=mine).metric is mine
    assert document_of(app_of(document, metric=mine))["prediction"]["metric"] is None
