"""`staytrue demo`: months of a real hotel against a running `staytrue up`, in a minute, with its page to look at.

What is before the live days is lived through by a replay, from whose end the controller goes on. Of the real bookings only those
up to the clock are in the app's folder: a day's bookings ask for quotes over HTTP, come into the source's file without their
rates, and the rates are posted as labels a day later.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from staytrue.cli.asker import Asker
from staytrue.cli.feeder import DAY, Feeder, Loop, until
from staytrue.cli.fetch import fetched
from staytrue.cli.new import make, templates
from staytrue.cli.replay import draw, show_policies
from staytrue.cli.screen import Screen
from staytrue.cli.server import said, serving
from staytrue.cli.up import PORT
from staytrue.errors import Conflict, Unavailable
from staytrue.loop.context import Context, open_context
from staytrue.loop.lease import FileBeats, Tenancy, alive, held
from staytrue.loop.losses import stories
from staytrue.loop.process import FileClock
from staytrue.loop.replay import replay
from staytrue.store.ledger import Event
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]

_HOST = "127.0.0.1"
_APP = "hotel-rates"
_BEGIN, _FIRST, _LIVE, _END = (
    datetime(*day, tzinfo=UTC) for day in ((2015, 4, 1), (2016, 7, 1), (2017, 2, 17), (2017, 9, 1))
)
"""Begin of the history; first day of the past that is lived through; first live day; end of the bookings."""
_DAYS = 105
"""A minute on two cores, and a story: a retraining promoted, another one, and one that gains nothing."""
_OTHERS = ("never", "every:28d")
_LABEL_AFTER = timedelta(days=1)
_CALLERS = 16
_KNOWN_LATER = frozenset({
    "booked_at", "rate", "assigned_room_type", "booking_changes", "days_in_waiting_list", "country",
    "required_car_parking_spaces", "total_of_special_requests", "arrival_date_num",
})  # fmt: skip
"""What nobody can send who asks for a quote."""
_READY_S = 120.0
_LOOK_S = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("name", nargs="?", default="pricing", choices=["pricing"], help="which demo (default: pricing)")
    parser.add_argument("--dir", metavar="DIR", help="where to put the app and its store (default: ./staytrue-demo)")
    parser.add_argument("--port", type=int, help=f"where to serve (default: {PORT}, or any that is free)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--headless", action="store_true", help="for scripts: end when all days are played")
    parser.add_argument("--days", type=int, metavar="N", default=_DAYS, help=f"play so many days (default: {_DAYS})")
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the policies side by side as an SVG picture into this file"
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """A store that can be asked why, and, until Ctrl-C, its server; exit code 0 also when it was told to end."""
    if importlib.util.find_spec("sklearn") is None:
        raise Unavailable(
            "ST131", "The demo trains with scikit-learn, which is not installed: pip install 'staytrue[demo]'."
        )
    place = Path(args.dir or "staytrue-demo").absolute()
    stays = not args.headless and (args.open or screen.out.is_terminal)
    if not stays and not args.headless:
        screen.note("Nobody looks on (no terminal, no --open): as with --headless it ends when all days are played.")
    demo = _Demo(screen=screen, args=args, place=place, root=Path(args.store or place / ".staytrue").absolute())
    with contextlib.suppress(KeyboardInterrupt), _terminated_as_interrupted():
        demo.run(stays=stays)
    return 0


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within this block SIGTERM and the end of the terminal are what Ctrl-C is."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Hotel:
    """The world: real bookings by the day they were made, of which those up to a day are in the file that the app's source reads.

    Args:
        bookings: all of them, as they ship. file: what the source reads.
    """

    key = "booking_id"

    def __init__(self, bookings: Path, file: Path) -> None:
        import pandas as pd

        self._file, self._text = file, gzip.decompress(bookings.read_bytes()).splitlines(keepends=True)
        self._rows: Any = pd.read_csv(bookings)
        self._booked_at = pd.to_datetime(self._rows["booked_at"], utc=True)
        self._asked = [name for name in self._rows.columns if name not in _KNOWN_LATER]
        told = self._before(_LIVE - _LABEL_AFTER) + 1
        # What was paid for a booking of the live days, the file never tells: it comes as a label.
        column = list(self._rows.columns).index("rate")
        for line in range(told, len(self._text)):
            values = self._text[line].split(b",")
            self._text[line] = b",".join([*values[:column], b"", *values[column + 1 :]])

    def _before(self, moment: datetime) -> int:
        return int(self._booked_at.searchsorted(moment))

    def _day(self, day: datetime) -> Any:
        return self._rows.iloc[self._before(day) : self._before(day + DAY)]

    def put(self, until_: datetime) -> None:
        """Those before that moment are there, and no others."""
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(gzip.compress(b"".join(self._text[: self._before(until_) + 1]), compresslevel=1))
        temporary.replace(self._file)

    def came(self, day: datetime) -> list[dict[str, Any]]:
        """Who books on that day asks for a quote."""
        self.put(day + DAY)
        return list(self._day(day)[self._asked].to_dict("records"))

    def became_known(self, now: datetime) -> dict[Any, Any]:
        """What was paid for the bookings of the day before yesterday."""
        rows = self._day(now - DAY - _LABEL_AFTER)
        return dict(zip(rows[self.key].tolist(), rows["rate"].tolist(), strict=True))

    @cached_property
    def row(self) -> dict[str, Any]:
        """What somebody asks who books nothing."""
        (row,) = self._rows.iloc[: self._before(_LIVE)][self._asked].tail(1).to_dict("records")
        return {name: value for name, value in row.items() if name != self.key}


@dataclass
class _Demo:
    """One demo, in its folder."""

    screen: Screen
    args: argparse.Namespace
    place: Path
    root: Path

    def run(self, *, stays: bool) -> None:
        """From the folder to the end."""
        self._make()
        store = open_store(self.root)
        if alive(self.root, _APP):
            raise Conflict(
                "ST1030", f"A controller runs the loop of {_APP}. End it first.", app=_APP, store=str(self.root)
            )
        port = _free_port(self.args.port)
        with contextlib.closing(store), contextlib.ExitStack() as past, contextlib.ExitStack() as stack:
            tenancy = None
            if not any(story["live"] for story in stories(store, _APP)):
                # The controller waits for the lease until the past is lived.
                tenancy = Tenancy(store.ledger, _APP, f"demo-{os.getpid()}", FileBeats(self.root, _APP))
                past.enter_context(held(tenancy, "lives the past", datetime.now(UTC)))
            process = stack.enter_context(serving(self._words(port), folder=self.place, log=self._log))
            self._show_address(process, port)
            ctx = open_context(str(self.place / "app.py"), self.root)
            if tenancy is not None:
                self._live_the_past(ctx, tenancy)
                past.close()
            else:
                self.screen.note(f"It goes on from {self._clock():%Y-%m-%d}, where its clock stands.")
            asker = stack.enter_context(contextlib.closing(Asker(port, connections=_CALLERS, patience_s=_READY_S)))
            feeder = self._feeder(ctx, process, asker, told=tenancy is None)
            self._feed(feeder)
            self._compare(ctx, feeder)
            self._show_what_next(ctx.store, port if stays else None)
            while stays:
                feeder.loop.check()
                feeder.listen()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LOOK_S)

    # ------------------------------------------------------------ folder and server

    def _make(self) -> None:
        template = templates()[self.args.name]
        app = self.place / "app.py"
        if not app.exists():
            make(template, self.place)
        elif not self._clock.file.exists() and app.read_bytes() != (template / "app.py").read_bytes():
            raise Conflict(
                "ST1031", f"{self.place} holds another app, not a demo. Give another --dir.", dir=str(self.place)
            )
        if not self._clock.file.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            self._clock.set(_LIVE)
        self.screen.note(f"The app is {app}, its store {self.root}.")

    @property
    def _clock(self) -> FileClock:
        return FileClock(self.root / "demo.clock")

    @property
    def _log(self) -> Path:
        return self.root / "demo.log"

    def _words(self, port: int) -> list[str]:
        words = ["--port", str(port), "--store", str(self.root), "--app", str(self.place / "app.py"), "--no-follow"]
        return [*words, "--clock", str(self._clock.file), *(["--open"] if self.args.open else [])]

    def _show_address(self, process: subprocess.Popen[bytes], port: int) -> None:
        with self.screen.busy("The server comes up"):
            until(lambda: self._is_up(process, port), "the page", seconds=_READY_S, why=lambda: said(self._log))
        self.screen.say(f"The page: http://{_HOST}:{port}/", style="bold")

    def _is_up(self, process: subprocess.Popen[bytes], port: int) -> bool:
        self._check(process)
        return _answers(port)

    def _check(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            raise Unavailable(
                "ST1032",
                f"The demo's server ended with exit code {process.returncode}. The last that it said: {said(self._log)}",
                exit_code=process.returncode,
            )

    # ------------------------------------------------------------ the days

    def _live_the_past(self, ctx: Context, tenancy: Tenancy) -> None:
        self._hotel.put(_LIVE)
        found = fetched(ctx, self.screen, [], since=_BEGIN, until=_LIVE)
        self.screen.note(f"Fetched {sum(f.rows for f in found):,} real bookings, a part for each day.")
        policy = ctx.app.settings.retrain
        with self.screen.bars() as bars:
            try:
                replay(
                    ctx, [policy, "never"], since=_FIRST, until=_LIVE, live=policy, tenancy=tenancy, moved_on=bars.moved
                )
            except Conflict as exc:
                raise Conflict(
                    "ST138",
                    f"{self.root} holds the story of another version of this app or of staytrue, and what happened is never "
                    "written anew. Give another --dir, or delete that folder.",
                    store=str(self.root),
                ) from exc

    @cached_property
    def _hotel(self) -> _Hotel:
        bookings = templates()[self.args.name] / "hotel_rates.csv.gz"
        return _Hotel(bookings, self.place / bookings.name)

    def _feeder(self, ctx: Context, process: subprocess.Popen[bytes], asker: Asker, *, told: bool) -> Feeder:
        loop = Loop(
            store=ctx.store,
            app=_APP,
            clock=self._clock,
            check=lambda: self._check(process),
            said=lambda: said(self._log),
        )
        feeder = Feeder(loop=loop, world=self._hotel, asker=asker, told=self._told)
        if told:
            feeder.skip()
        return feeder

    def _told(self, event: Event) -> None:
        if event.kind != "looked":
            self.screen.event(f"{event.at:%Y-%m-%d}", event.kind, event.sentence)

    def _feed(self, feeder: Feeder) -> None:
        now = self._clock()
        end = min(_END, now + self.args.days * DAY)
        with self.screen.bars() as bars:
            feeder.catch_up()
            days = (end - now) // DAY
            if days <= 0:
                self.screen.note(f"All days are played: the demo's clock stands at {now:%Y-%m-%d}.")
            feeder.play(end, lambda: bars.moved("days", feeder.days, days))

    # ------------------------------------------------------------ what came of it

    def _compare(self, ctx: Context, feeder: Feeder) -> None:
        policies = [ctx.app.settings.retrain, *_OTHERS]
        with self.screen.bars() as bars:
            found = replay(ctx, policies, since=_FIRST, until=self._clock(), moved_on=bars.moved)
        self.screen.document(found)
        draw(self.screen, found, self.args.chart)
        self.screen.say("\nThe same days under other policies (loss = mean absolute error of a quote, in euros):")
        show_policies(self.screen, found)
        asked, failed = len(feeder.asker.took_s), len(feeder.asker.failed)
        self.screen.say(f"\n{feeder.days} days live: {asked:,} requests, {failed} failed.")

    def _show_what_next(self, store: Store, port: int | None) -> None:
        screen, where = self.screen, f"--store {self.root}"
        screen.say("\nAsk it what happened and why:")
        champion = store.champion(_APP)
        shown = [f"show {champion.id[:8]}"] if champion else []
        # When nobody looks any more, nothing is right as of now.
        status = "status" if port else "status --at end"
        for command in (status, "log", *shown, "blame"):
            screen.say(f"  staytrue {command} {where}")
        if port is None:
            screen.say("\nServe it, with its page:")
            screen.say(f"  staytrue demo --dir {self.place}")
            return
        screen.say(f"\nThe page: http://{_HOST}:{port}/", style="bold")
        screen.note(f"The demo's clock stands at {self._clock():%Y-%m-%d}. It serves until Ctrl-C.")


def _free_port(wanted: int | None) -> int:
    """The port that was asked for; else the usual one, or any.

    Raises:
        Unavailable: ST774, somebody has it.
    """
    for port in [wanted] if wanted is not None else [PORT, 0]:
        with socket.socket() as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                made.bind((_HOST, port))
            except (OSError, OverflowError) as exc:
                if port == PORT and wanted is None:
                    continue
                raise Unavailable(
                    "ST774",
                    f"Can't listen on {_HOST}:{port}: {exc}. Give another --port, or end who has it.",
                    port=port,
                ) from exc
            return int(made.getsockname()[1])
    raise AssertionError


def _answers(port: int) -> bool:
    """Whether the page can be looked at."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(_HOST, port, timeout=5)
        connection.request("GET", "/")
        found = connection.getresponse().status == 200
        connection.close()
        return found
    return False
