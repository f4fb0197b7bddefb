"""A release that is broken is cut off at once, by the server itself, and nobody who asks notices."""

from __future__ import annotations

import shutil
import signal
from typing import Any

import pytest
from server import ROW, SHOP, Server, serving, until
from test_serving_releases import QUOTE, Asking, Street

BROKEN = {
    # Only on rows without a note: the golden rows have one, so each of them is trained, kept and started like any other.
    "crashes": 'if rows["note"].isna().any():\n        os._exit(9)',
    "raises": 'if rows["note"].isna().any():\n        raise ValueError("no quote today")',
    "answers NaN": 'if rows["note"].isna().any():\n        return np.full(len(rows), np.nan)',
    "is slow": "time.sleep(0.1)",
    "hangs": 'if rows["note"].isna().any():\n        time.sleep(3600)',
}
FAILED, ANSWERED = "staytrue_failed_rows_total", "staytrue_predictions_total"
CANARY, SHADOW = 0.5, 0.0
FEW = 20
"""Requests that a broken release may have got at most."""


def broken(street: Street, how: str) -> str:
    """The id of a release that differs from the champion in one way; the champion answers as before."""
    if how == "wants another schema":
        made = street.deploy('    "lift": {"missing": "accept"},\n', "", served=False)
    else:
        made = street.deploy(QUOTE, f"    {BROKEN[how]}\n{QUOTE}", served=False)
    street.give("champion", street.known[SHOP], 1.0)
    street.give("previous", None)
    street.server.answered_by(street.known[SHOP])
    return made


def tripped(street: Street, release: str) -> list[dict[str, Any]]:
    return [event for event in street.shop.events("tripped") if event["body"]["release"] == release]


def tripped_anew(street: Street, release: str, before: int, *, seconds: float = 60) -> dict[str, Any]:
    """The next event that says so."""
    try:
        return until(lambda: tripped(street, release)[before:], "an event that says so", seconds=seconds)[0]
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{street.server.stderr}\n{street.server.get('/metrics').body.decode()}") from exc


def arm(server: Server, name: str, release: str, arm: str) -> float:
    """A counter by release and arm."""
    wanted = f'{name}{{release="{release[:12]}",arm="{arm}"'
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted))


@pytest.fixture(scope="module")
def _running(tmp_path_factory, _kept_server):
    place = tmp_path_factory.mktemp("guards")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    with serving(place / "store") as server:
        yield server, {SHOP: server.release}


@pytest.fixture
def street(_running, served):
    """One server for the stories of this module, the same champion at the beginning of each."""
    server, known = _running
    served.store_path = server.store_path
    made = Street(served, server, known)
    yield made
    made.give("challenger", None)
    made.give("champion", known[SHOP], 1.0)
    made.give("previous", None)
    server.answered_by(known[SHOP])


# -- challengers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "guard", "share"),
    [
        ("crashes", "errors", CANARY),
        ("raises", "errors", CANARY),
        ("answers NaN", "errors", CANARY),
        ("is slow", "latency", CANARY),
        ("wants another schema", "schema", CANARY),
        ("crashes", "errors", SHADOW),
        pytest.param("raises", "errors", SHADOW, marks=pytest.mark.slow),
        pytest.param("answers NaN", "errors", SHADOW, marks=pytest.mark.slow),
        pytest.param("is slow", "latency", SHADOW, marks=pytest.mark.slow),
        ("wants another schema", "schema", SHADOW),
    ],
)
def test_a_broken_challenger_is_cut_off_and_no_request_fails(street, how, guard, share):
    challenger = broken(street, how)
    champion = street.known[SHOP]
    before = len(tripped(street, challenger))
    counted = [arm(street.server, name, challenger, "challenger") for name in (FAILED, ANSWERED)]

    with Asking(street.server) as asking:
        street.give("challenger", challenger, share)
        event = tripped_anew(street, challenger, before)
        failed, answered = (arm(street.server, name, challenger, "challenger") for name in (FAILED, ANSWERED))
        asking.more(50)

    assert asking.failures == []
    expected = {"role": "challenger", "guard": guard, "release": challenger, "against": champion}
    assert event["body"] | expected == event["body"]
    assert event["body"]["evidence"] >= event["body"]["needed"] > 100
    assert failed - counted[0] <= FEW, street.server.get("/metrics").body.decode()
    assert answered - counted[1] <= FEW, event
    # Cut off: nothing more is asked of it, and its processes end.
    until(lambda: len(street.server.workers()) == 1, "the worker of the challenger to end")
    assert arm(street.server, ANSWERED, challenger, "challenger") == answered
    assert {answer["release"] for answer in asking.answers[-40:]} == {champion}


@pytest.mark.slow
def test_a_challenger_that_hangs_keeps_nobody_waiting_for_long_and_is_cut_off(served):
    with serving(served.store_path, "--deadline-s", "0.5") as server:
        street = Street(served, server, {SHOP: server.release})
        challenger = broken(street, "hangs")
        until(lambda: server.predict(ROW).release == street.known[SHOP])
        with Asking(server) as asking:
            asking.more(200)
            street.give("challenger", challenger, 0.5)
            event = tripped_anew(street, challenger, 0, seconds=90)
            asking.more(50)

    assert asking.failures == []
    assert (event["body"]["guard"], event["body"]["role"]) == ("errors", "challenger")
    assert event["body"]["failed"] <= 2 * FEW


def test_a_request_on_which_both_fail_says_nothing_against_the_challenger(street):
    challenger = street.deploy(QUOTE, QUOTE + " + 1000")
    street.deploy()
    street.give("challenger", challenger, 0.5)
    # Many keys: the release's name salts the draw, so that of four keys all fall on one side once in eight runs.
    many = [ROW | {"id": key} for key in range(20)]
    until(lambda: street.server.predict(*many).json.get("releases"), "a canary")

    bad = [street.server.predict(ROW | {"note": note}) for note in ["raise"] * 40 + ["die"] * 2]

    assert {got.code for got in bad} == {"ST303", "ST763"}
    assert tripped(street, challenger) == []
    assert street.server.predict(*many).json["releases"].count(challenger) > 0


# -- champions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crashes", "raises", pytest.param("answers NaN", marks=pytest.mark.slow)])
def test_a_new_champion_that_fails_is_stood_in_for_by_the_previous_one(street, how):
    new = broken(street, how)
    old = street.known[SHOP]
    before = len(tripped(street, new))
    street.give("previous", old)

    with Asking(street.server) as asking:
        asking.more(5)
        street.give("champion", new, 1.0)
        event = tripped_anew(street, new, before)
        asking.more(50)

    assert asking.failures == []
    assert {answer["release"] for answer in asking.answers} == {old}
    expected = {"role": "champion", "guard": "errors", "release": new, "against": old}
    assert event["body"] | expected == event["body"]
    assert event["body"]["failed"] <= 2 * FEW
    logged = street.traffic([answer["ids"][0] for answer in asking.answers])
    assert set(zip(logged["release"], logged["arm"], strict=True)) == {(old, "champion")}


def test_a_champion_is_not_cut_off_for_what_the_previous_one_could_not_answer_either(street):
    street.give("previous", street.deploy())  # before it is champion no more, so that it stays warm
    new = street.deploy(QUOTE, QUOTE + " + 1000")

    bad = [street.server.predict(ROW | {"note": note}) for note in ["raise"] * 40 + ["die"] * 2]

    # As without a previous one; the caller learns what his champion says.
    assert {got.code for got in bad} == {"ST303", "ST823"}
    assert tripped(street, new) == []
    assert street.server.predict(ROW).release == new


def test_who_was_cut_off_stays_so_after_the_server_was_killed(served):
    with serving(served.store_path) as server:
        street = Street(served, server, {SHOP: server.release})
        old, new = server.release, broken(street, "raises")
        street.give("previous", old)
        street.give("champion", new, 1.0)
        with Asking(server) as asking:
            tripped_anew(street, new, 0)
            asking.more(20)
        server.end(signal.SIGKILL)

    with serving(served.store_path) as server:
        again = [server.predict(ROW) for _ in range(30)]
        counted = arm(server, FAILED, new, "champion")

    assert asking.failures == []
    assert {(got.status, got.release) for got in again} == {(200, old)}
    assert counted == 0
    assert len(tripped(street, new)) == 1
    assert served.verifies()
