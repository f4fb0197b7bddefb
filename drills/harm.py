"""Harm: a commit that is as good as any until the world moves; the loop finds it to blame and repairs it, with nobody there.

    python drills/harm.py [--dir DIR] [--kill]

1. A shop quotes its flats. A commit says that no flat is larger than 5: all answers stay what they were, so it is live at once.
2. Ten days later larger flats come. The loss rises, a harm alarm opens.
3. The loop re-runs mixtures of this release and the one before that commit, within the budget that the app sets
   (`app.policy(blame=6)`): the code is to blame, not the newer rows. It makes the repaired release, tries it on live rows, and
   promotes it. Requests go on all the while.

With --kill the controller or a job is killed with SIGKILL every few seconds, from before the alarm until the repair is live.
What is promised holds all the same: no answer is lost, exactly one champion, the same repair.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import psutil
from callers import Asker, Background
from place import Place
from report import Claim
from stream import DAY, Stream, shop

from staytrue.cli.feeder import Feeder
from staytrue.cli.screen import Screen
from staytrue.store.ledger import LIVE, Event, Ledger

COMMIT_ON, GROWS_ON, KILLED_FROM, DAYS = 4, 14, 15, 64
LARGEST, LARGER = 5.0, 12.0
KILL_EVERY_S = (2.0, 6.0)


def growing() -> Stream:
    """Nights of flats up to 5, and from day 14 on up to 12; a size costs the same all the time."""
    stream = shop(days=DAYS + 2)
    rows = stream.rows.copy()
    day = (rows["at"] - stream.first).dt.days
    large = day >= GROWS_ON
    stretched = 1 + (rows["size"] - 1) * (LARGER - 1) / (LARGEST - 1)
    dear = 6.0 * (day >= 3) + 9.0 * ((day >= 25) & (day < 32))
    base = rows["rate"] - 3 * rows["size"] - dear
    rows["size"] = rows["size"].where(~large, stretched.round(3))
    rows["rate"] = (base + 3 * rows["size"]).round(3)
    return replace(stream, rows=rows)


@dataclass
class Killer:
    """Kills processes of `staytrue up` at random moments while it is let."""

    parent: int
    seed: int = 7
    kills: list[str] = field(default_factory=list)
    champions: set[int] = field(default_factory=set)

    def run(self, place: Place, until: threading.Event) -> None:
        """Until the event is set. Who is killed: the controller or what runs below it."""
        chance = random.Random(self.seed)
        ledger = Ledger.open(place.folder / "store" / "ledger.db")
        while not until.wait(chance.uniform(*KILL_EVERY_S)):
            roles = [role for role in ledger.roles(place.stream.name, LIVE) if role.role == "champion" and role.release]
            self.champions.add(len(roles))
            with contextlib.suppress(psutil.Error):
                below = psutil.Process(self.parent).children(recursive=True)
                controllers = [one for one in below if "staytrue.loop.process" in _command(one)]
                jobs = [job for one in controllers for job in one.children(recursive=True)]
                if controllers:  # else it was killed a moment ago
                    who = chance.choice([*controllers, *jobs[:3]])
                    self.kills.append("controller" if who in controllers else "job")
                    who.kill()
        ledger.close()


def _command(process: psutil.Process) -> str:
    """How it was started; nothing of one that has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@dataclass
class Harm:
    """The drill."""

    place: Place
    screen: Screen
    kill: bool
    opened: tuple[float, datetime] | None = None
    live: tuple[float, datetime] | None = None

    def run(self) -> list[Claim]:
        """Play it; what is claimed."""
        place, stream = self.place, self.place.stream
        place.staytrue("fetch", "--since", stream.begin.isoformat(), "--until", stream.first.isoformat())
        over = threading.Event()
        with place.up() as up, contextlib.closing(Asker(up.port)) as asker:
            feeder = place.feeder(asker, self._told)
            killer = Killer(parent=up.process.pid)
            thread = threading.Thread(target=killer.run, args=(place, over))
            with Background(asker, place.database.row, per_s=20.0):
                feeder.catch_up()
                feeder.play(stream.first + COMMIT_ON * DAY)
                file = place.app / "app.py"
                file.write_text(
                    file.read_text().replace(
                        "known(rows) @ model", 'known(rows.assign(size=np.minimum(rows["size"], 5))) @ model'
                    )
                )
                guilty = place.commit("No flat is larger than 5")
                feeder.wait_for("deployed", "promoted", "shadow", "refused")
                day = place.clock
                while day < stream.first + DAYS * DAY and self.live is None:
                    if self.kill and day >= stream.first + KILLED_FROM * DAY and not thread.is_alive():
                        thread.start()
                    day += DAY
                    feeder.play(day)
                over.set()
                if thread.ident:
                    thread.join()
                feeder.play(day + 3 * DAY if self.live else day)
            return self._claims(feeder, asker, guilty, killer)

    def _told(self, event: Event) -> None:
        self.screen.event(f"{event.at:%Y-%m-%d}", event.kind, event.sentence)
        grown = event.at >= self.place.stream.first + GROWS_ON * DAY
        alarm = event.kind == "alarm" and event.body.get("alarm") == "harm" and event.body.get("state") != "resolved"
        if alarm or (grown and event.kind == "rejected"):
            self.opened = self.opened or (time.monotonic(), event.at)
        if event.kind in {"promoted", "repaired"} and self.opened:
            champion = self.place.store.champion(self.place.stream.name)
            if champion is not None and champion.release.code == self._first_code():
                self.live = self.live or (time.monotonic(), event.at)

    def _first_code(self) -> str:
        return self.place.store.release(self.place.loop.events()[0].body["release"]).release.code

    def _claims(self, feeder: Feeder, asker: Asker, guilty: str, killer: Killer) -> list[Claim]:
        place = self.place
        blamed = [event for event in feeder.by_kind["blamed"] if event.body["outcome"] == "changes"]
        report = place.store.objects.get_document(blamed[0].body["report"]) if blamed else {"culprits": []}
        named = [culprit["name"] for culprit in report["culprits"] if culprit["kind"] == "commit"]
        after = [event for event in place.loop.events() if self.live and event.at >= self.live[1]]
        quiet = not any(event.body.get("alarm") == "harm" for event in after)
        claims = [
            Claim("the loop sees that something is wrong", self.opened is not None, self._when()),
            Claim("it finds out what is to blame", bool(blamed), blamed[0].sentence if blamed else "it did not"),
            Claim("the guilty commit is named", named == [guilty], "; ".join(report.get("more", []))),
            Claim("the repair is live, and nobody touched anything", self.live is not None, self._took()),
            Claim("no request fails", not asker.failed, f"{len(asker.took_s):,} requests, {len(asker.failed)} failed"),
            Claim("no harm alarm opens after it", quiet, f"{len(after)} events later"),
        ]
        if self.kill:
            who = Counter(killer.kills)
            killed = f"{who['controller']} kills of the controller, {who['job']} of jobs"
            told = f"{killed}; {sorted(killer.champions)} champions at a time"
            claims.append(Claim("exactly one champion through it all", killer.champions == {1}, told))
            keys = [event.key for event in place.store.ledger.events(place.stream.name, "trainings")]
            claims.append(Claim("no recipe is trained twice", len(keys) == len(set(keys)), f"{len(keys)} trainings"))
            orders = list(place.store.ledger.events(place.stream.name, "orders"))
            claims.append(
                Claim(
                    "the repair is ordered once",
                    len(orders) == len({e.body.get("release") for e in orders}),
                    f"{len(orders)} orders",
                )
            )
        return claims

    def _when(self) -> str:
        grows = self.place.stream.first + GROWS_ON * DAY
        return f"{(self.opened[1] - grows).days} days after the flats grew" if self.opened else "it does not"

    def _took(self) -> str:
        if self.opened is None or self.live is None:
            return "it is not"
        days, rows = (self.live[1] - self.opened[1]).days, len(self.place.stream.day(self.opened[1]))
        return f"{days} days of {rows} rows after the alarm, {self.live[0] - self.opened[0]:.0f} s here"


def main() -> int:
    """Run it; 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="a new folder for app and store (default: nothing is left)")
    parser.add_argument("--kill", action="store_true", help="kill controller and jobs while it is blamed and repaired")
    args = parser.parse_args()
    screen = Screen(as_json=False)
    folder = Path(args.dir or tempfile.mkdtemp(prefix="staytrue-harm-")).resolve()
    place = Place(folder / "shop", growing())
    file = place.app / "app.py"
    file.write_text(
        file.read_text()
        .replace("app.policy(\n", "app.policy(\n    blame=6,\n")
        .replace("trial_days=12", "trial_days=30")
    )
    place.commit("Ask what is to blame when harm is done")
    try:
        claims = Harm(place=place, screen=screen, kill=args.kill).run()
        screen.say()
        for claim in claims:
            mark, style = ("holds ", "green") if claim.holds else ("BROKEN", "bold red")
            screen.say(f"  {mark} {claim.what}: {claim.shown}", style=style)
        return 0 if all(claim.holds for claim in claims) else 1
    finally:
        place.close()
        if args.dir is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
