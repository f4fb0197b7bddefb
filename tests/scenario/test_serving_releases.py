"""Which release answers: roles that change while requests come in, trials, old code, and processes that die."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import psutil
import pytest
from server import ROW, SHOP, Server, serving, until

from staytrue.kernel.rollout import in_canary
from staytrue.store.ledger import LIVE, Entry, RoleChange, RoleName
from staytrue.store.store import open_store

QUOTE = '    return np.polyval(model, rows["size"])'
DEARER = QUOTE + " + 1000"
POLICY = 'app.policy(holdout=20, cooldown="0s")'


@dataclass
class Street:
    """A server whose releases change: the app, its store, and what serves it."""

    shop: Any
    server: Server
    known: dict[str, str]

    def deploy(self, old: str = "", new: str = "", *, served: bool = True) -> str:
        """The app, changed in one place, as champion, once it answers. Gives the release's id."""
        assert not old or SHOP.count(old) == 1
        text = SHOP.replace(old, new) if old else SHOP
        self.shop.write(text)
        if text in self.known:
            self.give("champion", self.known[text], 1.0)
        elif text != SHOP:
            said = self.shop.run("train", "--now")
            assert said.code == 0, said.err
            self.known[text] = said.document["delivered"]["release"]
        if served:
            self.server.answered_by(self.known[text])
        return self.known[text]

    def give(self, name: RoleName, release: str | None, share: float = 0.0) -> None:
        """A role, in the way in which the loop does it."""
        store = open_store(self.shop.store_path)
        role = store.ledger.role("shop", LIVE, name)
        now = datetime.now(UTC)
        change = RoleChange(role=name, release=release, share=share, expect_epoch=role.epoch if role is not None else 0)
        if role is None or (role.release, role.share) != (release, share):
            entry = Entry(app="shop", key=f"{name} {now}", at=now, kind="given", sentence="A role.", roles=(change,))
            store.ledger.append([entry], recorded_at=now)
        store.close()

    def traffic(self, ids: Any = None) -> Any:
        """The rows of `store.traffic()`, or those of these predictions."""
        store = open_store(self.shop.store_path)
        rows = store.traffic().to_pandas()
        store.close()
        return rows if ids is None else rows[rows["id"].isin(list(ids))]


@pytest.fixture(scope="module")
def _running(tmp_path_factory, _kept_server):
    place = tmp_path_factory.mktemp("street")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    with serving(place / "store") as server:
        yield server, {SHOP: server.release}


@pytest.fixture
def street(_running, served):
    """One server for all stories of this module; each begins with a deployment of its own and leaves no challenger."""
    server, known = _running
    served.store_path = server.store_path
    made = Street(served, server, known)
    made.give("previous", None)  # else the champion of an earlier story may stand in for this one's
    yield made
    made.give("challenger", None)


@dataclass
class Asking:
    """Requests, one after the other from several threads, until it ends; every answer is kept."""

    server: Server
    answers: list[Any] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                got = self.server.predict(ROW)
            except OSError as exc:
                self.failures.append(repr(exc))
                continue
            if got.status == 200:
                self.answers.append(got.json)
            else:
                self.failures.append(str(got))

    def more(self, count: int) -> None:
        """Wait for so many answers more."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted or self.failures, f"{count} more answers")


# -- changes of the champion --------------------------------------------------------------------------------------------


def test_a_new_champion_takes_over_without_a_failed_or_mixed_answer(street):
    old = street.deploy()
    with Asking(street.server) as asking:
        new = street.deploy(QUOTE, DEARER)
        asking.more(20)

    told = {(answer["release"], answer["predictions"][0] > 500) for answer in asking.answers}
    assert asking.failures == []
    assert told == {(old, False), (new, True)}


def test_a_model_of_an_earlier_training_goes_out_under_other_code(street):
    # The first code's recipe again, while another model is champion: its golden answers are those of the code now.
    street.deploy(POLICY, 'app.policy(holdout=20, cooldown="1s")')

    release = street.deploy(QUOTE, QUOTE + " + 2000")

    assert street.server.predict(ROW).json["predictions"][0] > 2000
    assert street.shop.run("show", release).document["as_trained"] is True


def test_a_revert_brings_the_old_answers_back(street):
    old = street.deploy()
    expected = street.server.predict(ROW).json["predictions"]
    street.deploy(QUOTE, DEARER)

    said = street.shop.run("revert", "--code", "--now", old)

    assert said.code == 0, said.err
    street.server.answered_by(said.document["delivered"]["release"])
    assert street.server.predict(ROW).json["predictions"] == expected


def test_a_release_serves_its_own_code_when_the_apps_file_is_gone(street):
    release = street.deploy(QUOTE, DEARER)
    street.shop.write("this is no Python")
    (street.shop.folder / "shop_history.py").unlink()

    for process in [*street.server.workers(), *street.server.lanes()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

    # The one before stands in for it until its worker is there again.
    until(lambda: street.server.predict(ROW).release == release, "the release answers again")
    got = street.server.predict(ROW)
    assert (got.status, got.release) == (200, release)
    assert got.json["predictions"][0] > 500


def test_a_release_that_does_not_give_its_golden_answers_is_not_served_and_the_old_one_goes_on(street):
    old = street.deploy()

    new = street.deploy(QUOTE, QUOTE + ' + ("staytrue.serve.answerer" in __import__("sys").modules)', served=False)

    failed = until(
        lambda: [event for event in street.shop.events("serve_failed") if event["body"]["release"] == new],
        "an event that says so",
    )
    assert failed[0]["body"]["code"] == "ST755"
    assert street.server.predict(ROW).release == old
    assert new[:8] in street.server.stderr


# -- trials -------------------------------------------------------------------------------------------------------------


def test_a_canary_answers_its_share_of_the_keys_and_always_the_same_ones(street):
    challenger = street.deploy(QUOTE, DEARER)
    champion = street.deploy()
    rows = [ROW | {"id": key} for key in range(40)]
    street.give("challenger", challenger, 0.5)
    until(lambda: "releases" in street.server.predict(*rows).json, "a split request")

    asked = [street.server.predict(*rows) for _ in range(3)]

    expected = [challenger if chosen else champion for chosen in in_canary(range(40), 0.5, salt=challenger)]
    assert 5 < expected.count(challenger) < 35
    assert [got.json["releases"] for got in asked] == [expected] * 3
    assert [value > 500 for value in asked[0].json["predictions"]] == [one == challenger for one in expected]
    # A large request is the champion's alone.
    large = street.server.predict(*[ROW | {"id": at, "note": "n" * 40} for at in range(2_000)])
    assert (large.status, large.release, "releases" in large.json) == (200, champion, False)
    logged = street.traffic(asked[0].json["ids"])
    logged = logged[logged["arm"] != "shadow"]
    assert len(logged) == 40
    assert dict(zip(logged["row.id"], logged["release"], strict=True)) == dict(enumerate(expected))
    assert set(zip(logged["release"], logged["arm"], strict=True)) == {
        (champion, "champion"),
        (challenger, "challenger"),
    }


def test_a_role_that_changes_between_warm_releases_takes_effect_within_a_second(street):
    challenger = street.deploy(QUOTE, DEARER)
    street.deploy()
    street.give("challenger", challenger, 0.0)
    until(lambda: _shadows(street), "a shadow that answers")
    street.give("challenger", challenger, 0.999)

    took_s = street.server.answered_by(challenger, row=ROW | {"id": 1})

    assert took_s < 1.0


def _shadows(street):
    ids = street.server.predict(ROW).json["ids"]
    return (street.traffic(ids)["arm"] == "shadow").any()


def test_a_shadow_answers_what_the_champion_answers_and_only_the_log_sees_it(street):
    challenger = street.deploy(QUOTE, DEARER)
    champion = street.deploy()
    street.give("challenger", challenger, 0.0)
    until(lambda: _shadows(street), "a shadow that answers")

    got = street.server.predict(ROW, ROW | {"size": 3.0})

    ids = got.json["ids"]
    until(lambda: len(street.traffic(ids)) == 4, "both arms in the log")
    logged = street.traffic(ids).set_index("arm")
    assert set(got.json) == {"predictions", "ids", "release"}
    assert logged.loc["champion", "release"].tolist() == [champion] * 2
    assert logged.loc["shadow", "release"].tolist() == [challenger] * 2
    assert logged.loc["shadow", "id"].tolist() == ids
    assert logged.loc["shadow", "answer"].map(float).tolist() == pytest.approx(np.array(got.json["predictions"]) + 1000)


# -- logging ------------------------------------------------------------------------------------------------------------


def test_an_app_that_logs_nothing_is_answered_all_the_same_and_a_trial_gets_its_rows(street):
    challenger = street.deploy(QUOTE, DEARER)
    street.deploy(POLICY, 'app.policy(holdout=20, cooldown="0s", log=0)')
    got = street.server.predict(ROW)
    street.give("challenger", challenger, 0.0)
    until(lambda: _shadows(street), "a shadow that answers")

    on_trial = street.server.predict(ROW)

    assert (got.status, "staytrue-logged" in got.headers) == (200, False)
    assert street.traffic(got.json["ids"]).empty
    logged = street.traffic(on_trial.json["ids"])
    assert "champion" in set(logged["arm"])
    assert set(logged["weight"]) == {1.0}


def test_an_app_that_logs_half_logs_about_half_and_each_row_counts_for_two(street):
    street.deploy(POLICY, 'app.policy(holdout=20, cooldown="0s", log=0.5)')

    ids = [street.server.predict(ROW).json["ids"][0] for _ in range(100)]

    logged = street.traffic(ids)
    assert 22 < len(logged) < 78  # 5.6 standard deviations
    assert set(logged["weight"]) == {2.0}


@pytest.mark.slow
def test_an_app_may_wait_for_the_disk(street):
    street.deploy(POLICY, 'app.policy(holdout=20, cooldown="0s", durable=True)')

    got = street.server.predict(ROW, ROW)

    assert (got.status, "staytrue-logged" in got.headers) == (200, False)
    assert len(street.traffic(got.json["ids"])) == 2


# -- async predict functions --------------------------------------------------------------------------------------------

ASYNC = """@app.predict(metric="mae", inputs=INPUTS)
async def quote(model, rows):
    global INSIDE
    if set(rows["note"]) == {"meet"}:
        INSIDE += 1
        while INSIDE < 2:
            await asyncio.sleep(0.005)
    return np.polyval(model, rows["size"])
"""
PIECES = """@app.predict(metric=lambda answers, labels, rows: [0.0] * len(rows), inputs=INPUTS)
async def quote(model, rows):
    for word in ["about ", "the ", "price"]:
        if word == "the " and set(rows["note"]) == {"raise"}:
            raise ValueError("lost for words")
        yield word
"""
SYNC = SHOP[SHOP.index("@app.predict") :]


def test_requests_wait_beside_each_other_in_an_async_predict_function(street):
    street.deploy(SYNC, "import asyncio\n\nINSIDE = 0\n\n\n" + ASYNC)

    # Each is answered only when the other one is inside too.
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda size: street.server.predict(ROW | {"size": size, "note": "meet"}), [1.0, 5.0]))

    assert [got.status for got in both] == [200, 200]
    assert both[0].json["predictions"] < both[1].json["predictions"]


def test_an_async_generator_streams_its_answer(street):
    release = street.deploy(SYNC, PIECES)

    got = street.server.predict(ROW, headers={"accept": "text/event-stream"})

    events = [event.split("\n") for event in got.body.decode().strip().split("\n\n")]
    assert got.headers["content-type"] == "text/event-stream"
    assert got.release == release
    assert events[:3] == [["event: piece", f'data: "{word}"'] for word in ("about ", "the ", "price")]
    assert events[3][0] == "event: done"
    assert '"predictions":["about the price"]' in events[3][1]
    whole = street.server.predict(ROW, ROW)
    assert whole.json["predictions"] == ["about the price"] * 2
    assert len(street.traffic(whole.json["ids"])) == 2
    # One that breaks off says so, and one row at a time may be asked for.
    broken = street.server.predict(ROW | {"note": "raise"}, headers={"accept": "text/event-stream"})
    last = broken.body.decode().strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    assert "lost for words" in last
    assert street.server.predict(ROW, ROW, headers={"accept": "text/event-stream"}).code == "ST768"


# -- processes that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["lanes", "workers"])
def test_kill_9_of_a_process_that_answers_loses_no_request(street, whom):
    street.deploy()
    with Asking(street.server) as asking:
        for _ in range(3):
            asking.more(5)
            for process in getattr(street.server, whom)():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        asking.more(5)

    assert asking.failures == []
    assert set(street.traffic()["id"]) >= {answer["ids"][0] for answer in asking.answers}


def test_kill_9_of_the_server_loses_nothing_that_was_answered(served):
    with serving(served.store_path) as server, Asking(server) as asking:
        asking.more(30)
        ids = [answer["ids"][0] for answer in asking.answers]
        labelled = server.post("/labels", {"labels": [{"id": one, "label": 1.5} for one in ids]})
        families = psutil.Process(server.process.pid).children(recursive=True)
        server.end(signal.SIGKILL)
        answered = {answer["ids"][0]: answer["predictions"][0] for answer in list(asking.answers)}
        asking._over.set()
    _, alive = psutil.wait_procs(families, timeout=20)

    with serving(served.store_path) as server:
        again = server.predict(ROW)

    store = open_store(served.store_path)
    rows = store.traffic().to_pandas().set_index("id")
    store.close()
    assert labelled.status == 200
    assert alive == []
    assert again.status == 200
    assert rows.loc[list(answered), "answer"].tolist() == list(answered.values())
    assert set(rows.loc[ids, "label"]) == {1.5}
    assert served.verifies()


def test_a_server_that_is_told_to_end_answers_what_is_under_way(served):
    with serving(served.store_path, "--lanes", "2") as server, ThreadPoolExecutor(2) as pool:
        assert len(server.lanes()) == 2
        slow = [pool.submit(server.predict, ROW | {"note": "slow"}) for _ in range(2)]
        until(lambda: server.metric("http_server_active_requests") >= 3, "two requests under way")

        code = server.end(signal.SIGTERM)

        assert [one.result().status for one in slow] == [200, 200]
        assert code == 0
        with pytest.raises(OSError):
            server.predict(ROW)
