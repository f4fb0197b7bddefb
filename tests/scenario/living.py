"""An app whose loop is lived through a day at a time, in this process: for the stories about the controller."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from staytrue.engines.process import ProcessPool
from staytrue.loop import orders
from staytrue.loop.context import open_context
from staytrue.loop.controller import Controller
from staytrue.loop.fetch import fetch
from staytrue.loop.jobs import drive
from staytrue.loop.lease import FileBeats, Tenancy
from staytrue.store.ledger import LIVE, Event

START = datetime(2026, 1, 1, tzinfo=UTC)
LIVE_FROM, MOVES_ON, UNTIL = 12, 24, 52

APP = '''
"""60 sales a day, whose label is known two days later. On day 24 everything begins to cost 6 more."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from staytrue import App

app = App("shop")
app.policy(holdout=120, trial="backtest, shadow:60, canary:50%", watch_rows=240, retrain_cost=20, cooldown="1d" SETTINGS)
START = pd.Timestamp("2026-01-01", tz="UTC")


@app.data(time="at", key="id", label="rate", every="1d", label_after="2d", features=["size"])
def sales(since, until):
    now = pd.Timestamp(Path("now").read_text())
    found = pd.concat([one_day(day) for day in pd.date_range(since, until, inclusive="left")])
    found.loc[found["at"].dt.floor("D") + pd.Timedelta("3D") > now, "rate"] = None
    return found


def one_day(day):
    number = (day - START).days
    random = np.random.default_rng(number)
    size = random.uniform(1, 5, 60).round(3)
    rate = 20 + 3 * size + 6 * (number >= 24) + random.normal(0, 1, 60)
    at = day + pd.to_timedelta(np.arange(60) * 20, unit="min")
    return pd.DataFrame({"id": number * 100 + np.arange(60), "at": at, "size": size, "rate": rate.round(3)})


@app.train
def fit(sales):
    recent = sales.tail(240)
    return np.polyfit(recent["size"], recent["rate"], 1).tolist()


@app.predict(metric="mae")
def quote(model, rows):
    return np.polyval(model, rows["size"])
'''


@dataclass
class Live:
    """An app whose loop runs, a day at a time."""

    folder: Path
    pool: ProcessPool
    settings: str = ""
    text: str = APP
    now: datetime = START + timedelta(days=LIVE_FROM)
    beats: Any = None
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "app.py").write_text(self.text.replace("SETTINGS", self.settings))
        self.ctx = open_context(str(self.folder / "app.py"), self.folder / ".staytrue")
        self.ledger = self.ctx.store.ledger
        self._set(self.now)
        self._run(fetch(self.ctx, "sales", now=self.now, since=START))

    def _run(self, steps: Any) -> Any:
        return drive({"loop": steps}, self.pool)["loop"]

    def _set(self, now: datetime) -> None:
        self.now = now
        (self.folder / "now").write_text(now.isoformat())

    def controller(self, owner: str = "me") -> Controller:
        tenancy = Tenancy(self.ledger, "shop", owner, FileBeats(self.ctx.store.root, "shop"))
        assert tenancy.hold("", self.now)
        clock = lambda: self.now  # noqa: E731 - it follows the field
        return Controller(ctx=self.ctx, tenancy=tenancy, clock=clock, wall=clock, run=self._run, say=self.said.append)

    def live(self, controller: Controller, days: int) -> None:
        """A turn at each of the coming days."""
        for _ in range(days):
            controller.turn()
            self._set(self.now + timedelta(days=1))
        controller.turn()

    def until(self, controller: Controller, kind: str) -> Event:
        """Day after day until something of this kind happens."""
        for _ in range(UNTIL):
            self.live(controller, 1)
            if found := self.events(kind):
                return found[-1]
        raise AssertionError(f"no {kind} by {self.now}: {[e.sentence for e in self.events()]}")

    def events(self, *kinds: str) -> list[Event]:
        return self.ledger.events("shop", LIVE, kinds=list(kinds) or None)

    def story(self) -> list[str]:
        return [event.kind for event in self.events()]

    def decisions(self) -> list[str]:
        """What happened, without notes and alarms."""
        return [kind for kind in self.story() if kind not in ("noted", "alarm")]

    def roles(self) -> dict[str, str | None]:
        return {role.role: role.release for role in self.ledger.roles("shop", LIVE)}

    def ask(self, what: Any) -> None:
        orders.ask(self.ledger, "shop", what, by="ada", now=self.now, why="a test")


@contextlib.contextmanager
def beating(store_path: Path, app: str = "shop") -> Iterator[None]:
    """What a controller of that app that lives leaves behind twice a second."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while True:
            count += 1
            FileBeats(store_path, app).write({"pid": os.getpid(), "count": count})
            if over.wait(0.5):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
