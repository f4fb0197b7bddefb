"""Whodunnit: a commit, new rows and another setting go live together, the loss rises; `staytrue blame` says which it was.

    python drills/whodunnit.py [--only code|data|feed] [--dir DIR]

Real bookings of a hotel, three endings, each in an app folder of its own with a git repository:

code    one of the commits takes the season from the day of the booking, not of the arrival; no test sees it
data    for six weeks rates of bookings through agents came per guest, not per room; the contract let them in
feed    the feed gave nothing for four months, and then all of it; meanwhile the season has turned

In each a good release goes live; then commits, a setting and rows come together, and somebody in a hurry makes champion what
they give. Weeks later labels say that the loss rose. Everything is done by the verbs that a person would type: `fetch`,
`train`, `blame`, and `blame --apply`, which sends the repair through the trial; `predict` then answers later rows, which
nobody has seen. At the end stands a table, and what is claimed. Exit code 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from place import Place
from report import Claim
from stream import hotel

from staytrue.cli.screen import Screen
from staytrue.store.frames import read_parquet, to_frame, to_rows, write_parquet

PATIENCE_S = 120.0
"""From a bad champion to the verdict, on two cores."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What happens, and who did it.

    Attributes:
        title: what went wrong, as people tell it afterwards.
        commits: subject -> patch of what is committed between the two releases; "": a line of documentation.
        good, bad: up to when the two releases learn.    now: when somebody asks who did it.    end: of the rows after that.
        axis, how: what is to blame.
        inside: kinds of culprits of which one has to be named.    guilty: the subject of the commit that has to be.
        feed: what the feed makes of the true rows up to `bad`. All later ones are true.
    """

    name: str
    title: str
    commits: Mapping[str, str]
    good: datetime
    bad: datetime
    now: datetime
    end: datetime
    axis: str
    how: str
    inside: Collection[str]
    guilty: str = ""
    feed: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows

    @property
    def stuck(self) -> bool:
        """Whether nothing comes between the bad release and the question."""
        return self.how == "fresh"


# ---------------------------------------------------------------- the three endings


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _per_guest(rows: pd.DataFrame) -> pd.DataFrame:
    """What a new interface made of bookings through agents: what each guest pays, not the room."""
    wrong = (rows["booked_at"] >= _day("2016-11-01")) & (rows["distribution_channel"] == "ta_to") & (rows["adults"] > 1)
    return rows.assign(rate=rows["rate"].where(~wrong, (rows["rate"] / rows["adults"]).round(2)))


_COLUMNS = {"Say in one place what is made of a booking": "columns.patch"}
_DOCS = {"Say what a quote is": ""}
_SLIP = {"Learn on which weekday a guest books": "weekday.patch"}
_SETTING = {"Let the learner look a little longer": "iterations.patch"}

ENDINGS = (
    Ending(
        name="code",
        title="one of four commits takes the season from the day of the booking, not of the arrival",
        commits=_COLUMNS | _DOCS | _SLIP | _SETTING,
        guilty=next(iter(_SLIP)),
        good=_day("2016-12-01"),
        bad=_day("2017-01-10"),
        now=_day("2017-02-15"),
        end=_day("2017-03-20"),
        axis="code",
        how="back",
        inside={"commit"},
    ),
    Ending(
        name="data",
        title="for six weeks the rates of bookings through agents came per guest, not per room",
        commits=_COLUMNS | _DOCS | _SETTING,
        good=_day("2016-11-01"),
        bad=_day("2016-12-15"),
        now=_day("2017-01-25"),
        end=_day("2017-02-25"),
        feed=_per_guest,
        axis="data",
        how="back",
        inside={"parts", "segment"},
    ),
    Ending(
        name="feed",
        title="the feed gave nothing for four months, and the season has turned",
        commits=_COLUMNS | _DOCS | _SETTING,
        good=_day("2016-07-18"),
        bad=_day("2016-08-01"),
        now=_day("2016-12-01"),
        end=_day("2017-01-15"),
        axis="data",
        how="fresh",
        inside={"age"},
    ),
)


# ---------------------------------------------------------------- one ending, played


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of it: the losses are mean absolute errors in euros, of true rates."""

    ending: Ending
    together: str
    report: Mapping[str, Any]
    applied: Mapping[str, Any]
    seconds: float
    losses: Mapping[str, float]
    claims: Sequence[Claim]

    def line(self) -> dict[str, str]:
        """Its line of the table."""
        report = self.report
        named = [one for one in report["culprits"] if one["kind"] in self.ending.inside]
        return {
            "ending": self.ending.name,
            "changed together": self.together,
            "blame said": report["sentence"].partition(":")[0],
            "inside": ", ".join(_inside(one) for one in named),
            "trainings": str(report["trainings"]),
            "s": f"{self.seconds:.0f}",
            **{name: f"{loss:.3g}" for name, loss in self.losses.items()},
        }


def _inside(culprit: Mapping[str, Any]) -> str:
    """A culprit in as few words as a table has room for."""
    facts = culprit["facts"]
    words = {
        "commit": lambda: f"commit {culprit['name'][:8]}",
        "age": lambda: f"nothing learned since {facts['learned_until'][:10]}",
        "segment": lambda: culprit["name"],
        "parts": lambda: f"{len(facts['windows'])} days: {culprit['name']}",
    }
    return words[culprit["kind"]]()


@dataclass
class Story:
    """One ending in a folder of its own, which is made."""

    ending: Ending
    folder: Path
    screen: Screen
    place: Place = field(init=False)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        # Before 2016 a day has a booking or two: nothing to learn, and most of the time that fetching takes.
        stream = replace(hotel(), begin=_day("2016-01-01"), first=self.ending.good)
        self.place, self.began = Place(self.folder, stream), time.monotonic()
        self.place.commit("Learn from one thing more", stream.app / "feature.patch")
        self.place.commit("Name the learner's settings", stream.app / "settings.patch")

    def run(self) -> Told:
        """Play it, and see whether the right one is named and the repair holds."""
        ending, stream = self.ending, self.place.stream
        self.screen.say(f"\n{ending.name}: {ending.title}\n", style="bold")
        fetched = self._fetch(ending.good, "--since", stream.begin.isoformat())
        good = self._trained()
        self._say(
            ending.good, f"{fetched['rows']:,} bookings are fetched; release {good[:8]} learns from them and is live."
        )
        together, ids, passed, let_in = self._changed()
        bad = self._trained("--now")
        live = time.monotonic()
        self._say(
            ending.bad, f"{together} come together. Somebody in a hurry: release {bad[:8]} is live, without a trial."
        )
        came = self._feed(ending.bad, ending.now)
        self._fetch(ending.now)
        how = "The feed is there again" if ending.stuck else "Weeks later"
        self._say(ending.now, f"{how}: {came:,} bookings more, with what was paid. What made it worse?")
        report = self._blame()
        seconds = time.monotonic() - live
        self._say(ending.now, f"{seconds:.0f} s after {bad[:8]} went live. It is repaired:")
        applied = self._apply()
        releases = {"good": good, "bad": bad, "repaired": applied["release"]}
        losses = self._losses(releases)
        claims = [
            Claim("the app's tests pass on what did it", passed, "all of test_app.py" if passed else "they do not"),
            Claim("the contract lets the new rows in", let_in, "nothing is in quarantine" if let_in else "it does not"),
            *self._claims(report, applied, seconds, losses, ids),
        ]
        return Told(
            ending=ending, together=together, report=report, applied=applied, seconds=seconds, losses=losses, claims=claims
        )  # fmt: skip

    def _changed(self) -> tuple[str, Mapping[str, str], bool, bool]:
        """What changes between the two releases; the commits by subject, whether the tests pass, whether all rows are let in."""
        ending, place = self.ending, self.place
        ids = {subject: self._commit(subject, patch) for subject, patch in ending.commits.items()}
        code = "import test_app\nfor name in dir(test_app):\n    if name.startswith('test_'): getattr(test_app, name)()"
        tests = subprocess.run(
            [sys.executable, "-B", "-W", "ignore", "-c", code], cwd=place.app, env=place.environment, check=False
        )
        came = self._feed(ending.good, ending.bad, ending.feed)
        fetched = self._fetch(ending.bad)
        together = f"{len(ids)} commits, a setting, {came:,} bookings"
        return together, ids, tests.returncode == 0, fetched["quarantined"] == 0

    # ------------------------------------------------------------ what people do

    def _fetch(self, until: datetime, *words: str) -> Any:
        return self.place.staytrue("fetch", *words, "--until", until.isoformat(), accept=(0, 1))["fetched"][0]

    def _trained(self, *words: str) -> str:
        return str(self.place.staytrue("train", *words)["delivered"]["release"])

    def _blame(self) -> Any:
        """Asked as a person asks, who looks on; the document of it costs nothing more."""
        self._typed("blame")
        where = ["--store", str(self.folder / "store"), "--app", str(self.place.app / "app.py")]
        command = [sys.executable, "-W", "ignore", "-m", "staytrue", "blame", *where]
        subprocess.run(command, cwd=self.folder, env=self.place.environment, check=False)
        return self.place.staytrue("blame", accept=(0, 1))

    def _apply(self) -> Any:
        self._typed("blame --apply")
        applied = self.place.staytrue("blame", "--apply", accept=(0, 1))["applied"]
        self.screen.say(applied["sentence"], style="green" if applied["promoted"] else "yellow")
        return applied

    def _typed(self, words: str) -> None:
        self.screen.say(f"\n$ staytrue {words}", style="bold")
        self.screen.flush()

    def _commit(self, subject: str, patch: str) -> str:
        if patch:
            return self.place.commit(subject, self.place.stream.app / patch)
        with (self.place.app / "README.md").open("a", encoding="utf-8") as page:
            page.write(f"{subject}.\n")
        return self.place.commit(subject)

    # ------------------------------------------------------------ what the world does

    def _feed(
        self, since: datetime, until: datetime, feed: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows
    ) -> int:
        """Rows come, and the rates of those that came long enough ago are known."""
        late = self.place.stream.label_after
        rows = feed(self._between(since, until))
        self.place.database.insert(rows)
        self.place.database.label(feed(self._between(since - late, until - late)))
        return len(rows)

    def _say(self, at: datetime, sentence: str) -> None:
        self.screen.say(f"{time.monotonic() - self.began:5.0f} s  {at:%Y-%m-%d}  {sentence}")
        self.screen.flush()

    def _between(self, since: datetime, until: datetime) -> pd.DataFrame:
        rows, at = self.place.stream.rows, self.place.stream.time
        return rows[(rows[at] >= since) & (rows[at] < until)]

    # ------------------------------------------------------------ what it was worth

    def _losses(self, releases: Mapping[str, str]) -> dict[str, float]:
        """Of true rates: good before the change, bad until the question, then bad and repaired on rows that nobody has seen."""
        ending, stream = self.ending, self.place.stream
        rows = self._between(ending.good, ending.end)
        asked = rows[[stream.key, stream.time, *stream.asked]]
        asked = asked.assign(arrival_date=pd.to_datetime(asked["arrival_date"]))
        file = self.folder / "rows.parquet"
        file.write_bytes(write_parquet(to_rows(asked, doing="write the rows that are asked")))
        wrong = {}
        for name, release in releases.items():
            answers = self.folder / f"{name}.parquet"
            self.place.staytrue("predict", str(file), str(answers), "--release", release)
            given = to_frame(read_parquet(answers.read_bytes()))
            both = rows.merge(given[[stream.key, "prediction"]], on=stream.key, validate="one_to_one")
            wrong[name] = pd.Series((both["prediction"] - both[stream.label]).abs().to_numpy(), both[stream.time])

        def mean(name: str, since: datetime, until: datetime) -> float:
            of = wrong[name]
            return float(of[(of.index >= since) & (of.index < until)].mean())

        return {
            "before": mean("good", ending.good, ending.bad),
            "bad": mean("bad", ending.bad, ending.now),
            "bad later": mean("bad", ending.now, ending.end),
            "repaired later": mean("repaired", ending.now, ending.end),
        }

    def _claims(
        self,
        report: Mapping[str, Any],
        applied: Mapping[str, Any],
        seconds: float,
        losses: Mapping[str, float],
        ids: Mapping[str, str],
    ) -> Iterator[Claim]:
        ending = self.ending
        before, bad, later, repaired = losses.values()
        yield Claim("the loss rises", bad > 1.2 * before, f"from {before:.3g} to {bad:.3g} a row")
        blamed = {("code" if "code" in one["axis"] else one["axis"], one["how"]) for one in report["changes"]}
        yield Claim(
            "the guilty one is blamed, and nothing else", blamed == {(ending.axis, ending.how)}, report["sentence"]
        )
        named = [one for one in report["culprits"] if one["kind"] in ending.inside]
        right = bool(named) and (not ending.guilty or named[0]["name"] == ids[ending.guilty])
        yield Claim("it is named inside", right, " ".join(one["sentence"] for one in named) or "nothing is named")
        yield Claim(f"within {PATIENCE_S:.0f} s after it went live", seconds <= PATIENCE_S, f"{seconds:.0f} s")
        tried = bool(applied["promoted"]) and applied["verdict"] in {"better", "not_worse"}
        yield Claim("the repair comes through the trial", tried, applied["sentence"])
        shown = f"{repaired:.3g} a row against {later:.3g}, on bookings that nobody has seen"
        yield Claim("it repairs", repaired < later - 0.5 * (later - before), shown)


# ---------------------------------------------------------------- all of them


def main() -> int:
    """Play the endings; 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[ending.name for ending in ENDINGS])
    parser.add_argument("--dir", type=Path, help="a new folder for apps and stores (default: nothing is left)")
    args = parser.parse_args()
    screen = Screen(as_json=False)
    folder = Path(args.dir or tempfile.mkdtemp(prefix="staytrue-whodunnit-")).resolve()
    chosen = [ending for ending in ENDINGS if args.only in {None, ending.name}]
    try:
        told = [_played(ending, folder / ending.name, screen) for ending in chosen]
    finally:
        if args.dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    _show(told, screen)
    if args.dir:
        screen.say("\nAsk a store what happened and why:")
        for one in told:
            screen.say(f"  staytrue log --store {folder / one.ending.name / 'store'}")
    return 0 if all(claim.holds for one in told for claim in one.claims) else 1


def _played(ending: Ending, folder: Path, screen: Screen) -> Told:
    story = Story(ending=ending, folder=folder, screen=screen)
    try:
        return story.run()
    finally:
        story.place.close()


def _show(told: Sequence[Told], screen: Screen) -> None:
    screen.say("\nWho did it (loss in euros a booking; s: from a bad champion to the verdict)\n", style="bold")
    lines = [one.line() for one in told]
    right = [name for name in lines[0] if name not in {"ending", "changed together", "blame said", "inside"}]
    screen.table(list(lines[0]), [list(line.values()) for line in lines], right=right)
    for one in told:
        screen.say(f"\nClaims: {one.ending.name}\n", style="bold")
        for claim in one.claims:
            mark, style = ("holds ", "green") if claim.holds else ("BROKEN", "bold red")
            screen.say(f"  {mark} {claim.what}: {claim.shown}", style=style)


if __name__ == "__main__":
    sys.exit(main())
