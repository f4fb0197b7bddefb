"""The whole thing, live and accelerated: months of real bookings against a running `staytrue up`, in minutes.

    python drills/drill.py [--days N] [--after N] [--dir DIR] [--keep] [--only hotel|elec2|shop]

1. A hotel quotes its rooms: history is fetched, a first model trained, the server comes up.
2. Day after day: who books asks for a quote over HTTP, three days later the true rate is known, at midnight the loop looks
   at what it cost. It decides by itself when to retrain, tries what comes out on live traffic, promotes or rejects it.
3. Somebody pushes a commit that breaks a test: it is refused. Then one that adds a feature, the arrival's day of year:
   it is tested, trained, tried and live, while requests go on.
4. The same days by `staytrue replay`: it decides the same, and trains nothing that the live loop had not trained already.
5. What each was worth, and what was claimed. Exit code 1 when a claim does not hold.

Elec2, an electricity market, is played after it in the same way if its file is there: it states no licence and is not shipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from callers import Asker, Background
from place import Place
from report import Claim, Lived, Report, compared, worth
from stream import DAY, Stream, elec2, elec2_file, hotel, shop

from staytrue.cli.feeder import Feeder
from staytrue.cli.screen import Bars, Screen
from staytrue.store.ledger import Event

HERE = Path(__file__).parent
PER_S = 20.0
"""Requests a second of the steady load."""
SPANS = {"hotel": (98, 50), "elec2": (62, 0), "shop": (40, 20)}
"""Days to play before the commits, and after them; 0: none are made."""


@dataclass
class Drill:
    """One app's drill."""

    stream: Stream
    place: Place
    screen: Screen
    days: int
    after: int
    commits: list[Event] = field(default_factory=list)

    def run(self) -> Report:
        """Play it, and hold it against a replay."""
        screen, place, stream = self.screen, self.place, self.stream
        first = place.git("rev-parse", "HEAD")
        since, pushed_at = stream.first, stream.first + self.days * DAY
        end = pushed_at + self.after * DAY
        screen.say(f"\n{stream.name}: {since:%Y-%m-%d} .. {end:%Y-%m-%d}, {(end - since).days} days", style="bold")
        fetched = place.staytrue("fetch", "--since", stream.begin.isoformat(), "--until", since.isoformat())
        screen.note(f"Fetched {fetched['fetched'][0]['rows']:,} rows of history. The app is {place.app}.")
        began = time.monotonic()
        with place.up() as up, self._feeder(up.port) as feeder, screen.bars() as bars:
            asker = feeder.asker
            with Background(asker, place.database.row, per_s=PER_S):
                feeder.catch_up()
                feeder.play(pushed_at, self._moved(bars, feeder))
                if self.after:
                    self._push(feeder)
                    feeder.play(end, self._moved(bars, feeder))
            took_s = time.monotonic() - began
            lived = Lived.of(place, feeder, since=since, until=end, pushed_at=pushed_at, took_s=took_s)
        screen.note("The same days by replay: as they were lived, and as they would have been otherwise.")
        app = place.checkout_of(first)
        same = self._replayed(app, ["payback"], since, pushed_at)
        others = self._replayed(app, ["payback", "never"], since, end)
        claims = [*lived.claims(), *compared(lived, same), *(self._pushes(lived) if self.after else [])]
        return Report(lived=lived, others=others, claims=claims, worth=worth(lived, others))

    @contextmanager
    def _feeder(self, port: int) -> Iterator[Feeder]:
        asker = Asker(port)
        try:
            yield self.place.feeder(asker, self._told)
        finally:
            asker.close()

    def _told(self, event: Event) -> None:
        self.screen.event(f"{event.at:%Y-%m-%d}", event.kind, event.sentence)

    def _moved(self, bars: Bars, feeder: Feeder) -> Any:
        def moved() -> None:
            bars.moved(self.stream.name, feeder.days, self.days + self.after)

        return moved

    def _replayed(self, app: Path, policies: list[str], since: datetime, until: datetime) -> dict[str, Any]:
        chosen = [word for policy in policies for word in ("--policy", policy)]
        span = ["--since", since.isoformat(), "--until", until.isoformat()]
        found: dict[str, Any] = self.place.staytrue("replay", *chosen, *span, app=app)
        return found

    # ------------------------------------------------------------ commits

    def _push(self, feeder: Feeder) -> None:
        """A commit that breaks a test, taken back when it is refused; then one that makes quotes better."""
        place, patches = self.place, self.stream.app
        place.commit("Quote round hundreds, they look better", patches / "broken.patch")
        self.commits.append(feeder.wait_for("refused", "shadow", "canary", "rejected"))
        place.git("revert", "--no-edit", "HEAD")
        place.commit("Learn from one thing more", patches / "feature.patch")
        self.commits.append(feeder.wait_for("refused", "shadow", "canary", "rejected"))

    def _pushes(self, lived: Lived) -> Iterator[Claim]:
        broken, better = self.commits
        yield Claim("the commit that breaks a test is refused", broken.kind == "refused", broken.sentence)
        release = better.body.get("release")
        promoted = [
            event for event in lived.events if event.kind == "promoted" and event.body.get("release") == release
        ]
        yield Claim(
            "the commit that adds a feature is tested, tried and live",
            bool(release and promoted),
            promoted[0].sentence if promoted else better.sentence,
        )


def main() -> int:
    """Run the drills that there are; 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--days", type=int, help="before the commits (DRILL_DAYS)", default=os.environ.get("DRILL_DAYS")
    )
    parser.add_argument("--after", type=int, help="days after the commits; 0: none are made")
    parser.add_argument(
        "--only", choices=tuple(SPANS), help="shop: made-up rows, a minute (default: hotel, then elec2)"
    )
    parser.add_argument("--dir", type=Path, help="a new folder for app, store and picture (default: nothing is left)")
    args = parser.parse_args()
    screen = Screen(as_json=False)
    folder = Path(args.dir or tempfile.mkdtemp(prefix="staytrue-drill-")).resolve()
    good = True
    try:
        for name in [args.only] if args.only else ["hotel", "elec2"]:
            if name == "elec2" and not elec2_file().exists():
                screen.note(f"elec2 is left out: {elec2_file()} is not there (set ELEC2 to its file).")
                continue
            days, after = SPANS[name]
            days, after = (days if args.days is None else args.days), (after if args.after is None else args.after)
            good &= drill(_STREAMS[name](), folder, screen, days=days, after=after, keep=args.dir is not None)
    finally:
        if args.dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


_STREAMS = {"hotel": hotel, "elec2": elec2, "shop": shop}


def drill(stream: Stream, folder: Path, screen: Screen, *, days: int, after: int, keep: bool) -> bool:
    """Play one stream, and show what came of it; whether all claims hold."""
    place = Place(folder / stream.name, stream)
    try:
        report = Drill(stream=stream, place=place, screen=screen, days=days, after=after).run()
        report.show(screen)
        if keep:
            picture = place.folder / "drill.svg"
            picture.write_text(report.picture(), encoding="utf-8")
            screen.say(f"\nThe picture is {picture}. Ask the store what happened and why:")
            for command in ("status", "log", "verify"):
                screen.say(f"  staytrue {command} --store {place.folder / 'store'}")
        return report.good
    finally:
        place.close()


if __name__ == "__main__":
    sys.exit(main())
