"""kill -9 of a revert at a random moment, while people ask: the same command goes on, and there is exactly one champion."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from load import Load, Reply
from served import APP, FIRST, SECOND, Kept, predict, up

from staytrue.errors import InvalidInput
from staytrue.kernel.release import AXES, Axis
from staytrue.loop.revert import planned
from staytrue.store.ledger import LIVE
from staytrue.store.store import Store
from staytrue.store.verify import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a server needs fork")

LONG = pytest.mark.fault_long


def command(store: Path, *verb: str) -> list[str]:
    return [sys.executable, "-m", "staytrue", *verb, "--store", str(store), "--json"]


def reverting(store: Path, axes: list[str], to: str) -> list[str]:
    return command(store, "revert", *(f"--{axis}" for axis in axes), "--now", to)


def started(argv: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd="/")


def possible(path: Path, source: random.Random, releases: list[str]) -> tuple[list[str], str, Any]:
    """Axes, the release to take them from, and what that makes: something that the champion is not already."""
    with closing(Store(path)) as store:
        while True:
            axes: list[Axis] = source.sample(AXES, source.randint(1, 3))
            to = store.release(source.choice(releases))
            try:
                return list(axes), to.id, planned(store, APP, to, axes).release
            except InvalidInput as exc:
                if exc.code != "ST454":
                    raise


def right(number: int, reply: Reply) -> str:
    """Whether the answer is that of either model, under the release that it names."""
    if reply.status != 200:
        return f"{reply.status}: {reply.body[:300]!r}"
    said = json.loads(reply.body)
    named = reply.headers["staytrue-release"] == said["release"]
    return "" if named and said["predictions"][0] - number in {FIRST, SECOND} else f"mixed: {said}"


def what(release: Any) -> tuple[Any, ...]:
    """What a release is made of."""
    return release.code, dict(release.tables), release.model


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=LONG)])
def test_a_revert_that_is_killed_goes_on_and_leaves_one_champion(tmp_path, kept: Kept, rounds: int) -> None:
    path, source = kept.copied(tmp_path / "store"), random.Random(rounds)
    releases = list(kept.releases.values())
    cut, told = 0, 0
    with up(path) as server, Load(server.port, predict, connections=2, rate=40, check=right) as load:
        load.wait_for(10)
        usual_s = 2.0
        for _ in range(rounds):
            axes, to, made = possible(path, source, releases)
            victim = started(reverting(path, axes, to))
            time.sleep(source.uniform(0, usual_s))  # the moment of the kill is what is random
            victim.kill()
            victim.communicate()
            cut += victim.returncode != 0

            began = time.monotonic()
            again = started(reverting(path, axes, to))
            out, err = again.communicate(timeout=120)
            usual_s = time.monotonic() - began

            assert again.returncode == 0, err
            told += 1
            with closing(Store(path)) as store:
                events = store.ledger.events(APP, LIVE, kinds=["reverted"])
                champion = store.champion(APP)
                assert len(events) == told, "once, whoever was killed"
                assert champion is not None
                assert what(champion.release) == what(made)
                assert json.loads(out)["delivered"]["release"] == champion.id
                assert [role.role for role in store.ledger.roles(APP, LIVE)].count("champion") == 1
                releases = [one.id for one in store.releases(APP)]
        last = champion.id
        load.wait_for(20)
        server_s = time.monotonic()
        while load.answers[-1].release != last:
            assert time.monotonic() - server_s < 30
            load.wait_for(5)
        report = load.report
    print(f"{rounds} reverts, {cut} killed before their end; {len(report.good)} answers, {len(report.faults)} faults")
    assert report.faults == []
    with closing(Store(path)) as store:
        assert verify(store.objects, store.ledger).problems == []
