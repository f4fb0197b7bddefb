"""What an app may ask of its trainings and answers: windows, warm starts, hooks, async, segments, a policy of its own."""

from __future__ import annotations

import pytest

from staytrue import InvalidInput

SHOP = """
from shop_history import between

import numpy as np

from staytrue import App, Decision

app = App("shop")
app.policy(holdout=100, trial="backtest, shadow:40, canary:50%", watch_rows=0, retrain_cost=20)


@app.data(time="at", key="id", label="rate", every="1d", features=["size", "city"])
def sales(since, until):
    return between(since, until)


@app.train
def fit(sales):
    return np.polyfit(sales["size"], sales["rate"], 1).tolist()


@app.predict(metric="mae")
def quote(model, rows):
    return np.polyval(model, rows["size"])
"""
"""Twenty sales a day; from 11 April 2026 on everything costs 6 more."""


def told(story, kind):
    return [e for e in story["timeline"] if e["kind"] == kind]


def shop_with(line: str) -> str:
    """The shop with one more line after its policy."""
    return SHOP.replace("\n\n\n@app.data", f"\n{line}\n\n\n@app.data", 1)


# ---------------------------------------------------------------- when to train


def test_a_users_own_policy_decides_and_its_words_are_in_the_log(bench_of):
    own = """

def when_five_hundred(known):
    assert known.now.tzinfo is not None
    waiting = known.rows_since
    return Decision(retrain=waiting >= 500, why=f"{waiting} rows are waiting", numbers={"rows": waiting})


app.policy(when_five_hundred)
"""
    with bench_of(shop_with(own)) as bench:
        bench.fetch("2026-01-01", "2026-04-01")
        story = bench.replay(["app", "never"], since="2026-02-01")

    (lived, never) = story["policies"]
    assert (lived["policy"], lived["retrains"] > 0, never["retrains"]) == ("app", True, 0)
    assert told(story, "retrain")[0]["sentence"] == "Retrain: 500 rows are waiting."
    assert told(story, "retrain")[0]["evidence"] == {"rows": 500}


@pytest.mark.parametrize("answer", ["'yes'", "1 / 0"])
def test_a_policy_that_gives_no_decision_is_told_so(bench_of, answer):
    with bench_of(shop_with(f"app.policy(lambda known: {answer})")) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        with pytest.raises(InvalidInput) as caught:
            bench.replay(["app"], since="2026-02-01")

    assert caught.value.code == "ST105"


# ---------------------------------------------------------------- what to train on


def test_a_window_of_thirty_days_trains_on_thirty_days(bench_of):
    with bench_of(shop_with('app.policy(window="30d")')) as bench:
        bench.fetch("2026-01-01", "2026-05-31")
        story = bench.replay(["every:21d"], since="2026-03-02")

    assert told(story, "deployed")[0]["evidence"]["rows"] == 600
    assert {e["evidence"]["trained_rows"] for e in told(story, "shadow")} == {600}


def test_the_auto_window_forgets_what_was_before_a_change(bench_of):
    # On 21 May forty days have the new prices: 45 days fit them better than all 140.
    with bench_of(shop_with('app.policy(window="auto")')) as bench:
        bench.fetch("2026-01-01", "2026-06-20")
        story = bench.replay(["every:40d"], since="2026-04-11")

    backtest = told(story, "backtest")[0]
    assert backtest["evidence"]["window"] == "45d"
    assert told(story, "shadow")[0]["evidence"]["trained_rows"] == 900


WARM = """
from shop_history import between

from staytrue import App

app = App("shop")
app.policy(holdout=100, trial="backtest, shadow:40", watch_rows=0, retrain_cost=20)


@app.data(time="at", key="id", label="rate", every="1d", features=["size"])
def sales(since, until):
    return between(since, until)


@app.train(params={"step": 0.5}, seed=3)
def fit(sales, previous, params, seed):
    assert seed == 3
    mean = float(sales["rate"].tail(400).mean())
    return mean if previous is None else previous + params["step"] * (mean - previous)


@app.predict(metric="mae")
async def quote(model, rows):
    return [model] * len(rows)
"""


def test_a_warm_start_begins_with_the_champions_model_and_the_recipe_says_so(bench_of):
    with bench_of(WARM) as bench:
        bench.fetch("2026-01-01", "2026-06-20")
        story = bench.replay(["every:28d"], since="2026-03-12")
        first = bench.store.release(told(story, "deployed")[0]["release"])
        second = bench.store.release(told(story, "promoted")[0]["release"])
        (parent,) = second.release.parents

        assert parent == first.id
        assert bench.store.recipe(first.release.recipe).previous is None
        assert bench.store.recipe(second.release.recipe).previous == first.release.model
        assert second.release.params == {"step": 0.5}
        assert second.release.seed == 3
        assert first.model() < second.model() < first.model() + 6


HOOKS = (
    SHOP.replace(
        '    return np.polyfit(sales["size"], sales["rate"], 1).tolist()',
        '    return Line(*np.polyfit(sales["size"], sales["rate"], 1))',
    ).replace("np.polyval(model, ", "np.polyval([model.slope, model.start], ")
    + """

class Line:
    def __init__(self, slope, start):
        self.slope, self.start = float(slope), float(start)

    def __reduce__(self):
        raise TypeError("a Line does not pickle")


@app.save
def save(line):
    return f"{line.slope!r} {line.start!r}".encode()


@app.load
def load(data):
    return Line(*map(float, data.decode().split()))
"""
)


def test_a_model_that_does_not_pickle_is_kept_by_the_apps_own_hooks(bench_of):
    with bench_of(HOOKS) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        training = bench.train()
        manifest = bench.store.objects.get_document(bench.release().release.model)
        data = bench.store.objects.get(manifest["bytes"])

        assert manifest["format"] == "hook"
        assert data.decode() == f"{training.model.slope!r} {training.model.start!r}"
        assert bench.answers([{"size": 2.0, "city": "porto"}])[0] == pytest.approx(26.0, abs=0.5)
        assert bench.release().model(bench.app.loader).slope == training.model.slope


def test_answers_may_be_async(bench_of):
    with bench_of(WARM) as bench:
        bench.fetch("2026-01-01", "2026-02-01")
        training = bench.train()

        assert bench.answers([{"size": 1.0}, {"size": 2.0}]) == [training.model] * 2


# ---------------------------------------------------------------- segments


SEGMENTS = """
from datetime import timedelta

import numpy as np

from staytrue import App

app = App("two-cities")
app.policy(holdout=300, trial="backtest, shadow:900", watch_rows=0, retrain_cost=1)


@app.data(time="at", key="id", label="rate", every="1d", features=["city"])
def sales(since, until):
    found = []
    for d in range((until - since).days):
        at = since + timedelta(days=d)
        later = (at.month, at.day) >= (2, 1)
        noise = np.random.default_rng(at.toordinal()).normal(0, 0.5, 30)
        for n in range(30):
            city = "porto" if n % 3 == 0 else "lisbon"
            found.append({"at": at + timedelta(minutes=n), "id": f"{at:%m%d}-{n}", "city": city,
                          "rate": 20.0 + noise[n] + (6 if later and city == "lisbon" else 0)})
    return found


@app.train
def fit(sales):
    new = sales.tail(300).groupby("city")["rate"].mean().to_dict()
    if len(sales) > 1200:
        new["porto"] += 3  # a mistake that only porto notices: lisbon's gain is larger
    return new


@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return rows["city"].map(model).astype(float)
"""


@pytest.mark.slow
def test_a_challenger_that_is_better_in_all_but_worse_in_one_segment_is_refused(bench_of):
    with bench_of(SEGMENTS) as bench:
        bench.fetch("2026-01-01", "2026-04-11")
        story = bench.replay(["every:28d"], since="2026-01-31")
    with bench_of(SEGMENTS.replace(', segments=["city"]', "")) as bench:
        bench.fetch("2026-01-01", "2026-04-11")
        blind = bench.replay(["every:28d"], since="2026-01-31")

    assert [p["promoted"] for p in story["policies"]] == [0]
    assert [e for e in told(story, "rejected") if "worse in city=porto" in e["sentence"]]
    assert [p["promoted"] for p in blind["policies"]] == [1]


DICTS = """
@app.train
def fit(sales: list[dict]):
    return sum(row["rate"] / row["size"] for row in sales) / len(sales)


@app.predict(metric="mae")
def quote(model, rows):
    return [model * row["size"] for row in rows]
"""


def test_training_and_answers_may_ask_for_dicts(bench_of):
    with bench_of(SHOP[: SHOP.index("@app.train")] + DICTS) as bench:
        bench.fetch("2026-01-01", "2026-02-01")
        model = bench.train().model

        assert bench.answers([{"size": 2.0, "city": "porto"}]) == [pytest.approx(2 * model)]
