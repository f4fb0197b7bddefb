"""Blame: the guilty change found among several, its repair made and let in, by hand and by the loop itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from living import APP, START, Live

from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput, Refused
from staytrue.loop.blame import Asked, blame, known
from staytrue.loop.context import open_context
from staytrue.loop.deliver import train_by_hand
from staytrue.loop.inquiry import good_before
from staytrue.loop.past import Past
from staytrue.loop.repairing import repaired
from staytrue.loop.status import status

# From day 24 on sizes go up to 12. Code that "knows" that they end at 5 is as good as any until then.
WORLD = APP.replace(
    "size = random.uniform(1, 5, 60)", "size = random.uniform(1, 5 if number < 24 else 12, 60)"
).replace("20 + 3 * size + 6 * (number >= 24)", "20 + 3 * size")
CLIPPED = WORLD.replace('rows["size"]', 'rows["size"].clip(upper=5)').replace(
    'recent["size"]', 'recent["size"].clip(upper=5)'
)


@pytest.fixture
def pool(tmp_path):
    with ProcessPool(tmp_path / "jobs") as pool:
        yield pool


class Blamed(Live):
    """An app whose code changes hands on day 18, by a hasty person."""

    def rewrite(self, text: str) -> None:
        """The folder holds other code now, and so does the champion: no trial was asked for."""
        (self.folder / "app.py").write_text(text.replace("SETTINGS", self.settings))
        self.ctx = open_context(str(self.folder / "app.py"), self.folder / ".staytrue")
        done, _ = self._run(train_by_hand(self.ctx, Past.whole(self.ctx), now=True))
        assert done is not None
        assert done.promoted

    def blame(self, good: str, bad: str, **asked: int):
        said: list[str] = []
        store = self.ctx.store
        question = Asked(good=store.release(good).id, bad=store.release(bad).id, **asked)
        report = self._run(blame(store, question, home=self.folder, say=said.append))
        return report, question, said


@pytest.fixture
def shop(tmp_path, pool):
    made = Blamed(tmp_path / "shop", pool, text=WORLD)
    yield made
    made.ctx.store.close()


def lived_until(shop, day: int) -> None:
    controller = shop.controller()
    shop.live(controller, (START + timedelta(days=day) - shop.now).days)


def test_the_code_is_found_to_blame_and_its_repair_trains_nothing_twice(shop):
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop.rewrite(CLIPPED)
    bad = shop.roles()["champion"]
    lived_until(shop, 34)

    report, question, said = shop.blame(good, bad)

    assert report["outcome"] == "changes"
    assert {change["axis"] for change in report["changes"]} <= {"training code", "serving code"}
    assert report["sentence"].startswith("It is the code")
    assert len(said) == report["trainings"] <= 5
    assert report["loss"]["bad"] - report["gain"]["gain"] < 0.5 * report["loss"]["bad"]

    again, _, silent = shop.blame(good, bad)
    assert (again, silent) == (report, [])
    assert known(shop.ctx.store, question) == report

    made = shop._run(repaired(shop.ctx.store, question, report, home=shop.folder))
    assert made.release.parents == (bad,)
    assert made.release.code == shop.ctx.store.release(good).release.code
    assert len(shop.ledger.events("shop", "trainings")) <= report["trainings"] + 4


def test_nothing_is_blamed_when_only_the_world_moved(shop):
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop.rewrite(WORLD.replace("def one_day", "LIMIT = 99\n\n\ndef one_day"))
    bad = shop.roles()["champion"]
    lived_until(shop, 23)

    report, *_ = shop.blame(good, bad)

    assert report["outcome"] == "nobody"
    assert report["changes"] == []
    assert "could not have been seen" in report["sentence"]


def test_a_budget_that_is_spent_leaves_the_question_open(shop):
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop.rewrite(CLIPPED)
    lived_until(shop, 34)
    bad = shop.roles()["champion"]

    report, question, _ = shop.blame(good, bad, trainings=0)

    assert report["outcome"] == "unknown" or report["trainings"] == 0
    if report["outcome"] == "unknown":
        assert known(shop.ctx.store, question) is None
        assert "--budget" in report["next"]


def test_what_can_not_be_compared_is_said(shop):
    lived_until(shop, 18)
    good = shop.roles()["champion"]

    with pytest.raises((Refused, InvalidInput)) as told:
        shop.blame(good, good, rows=50)

    assert told.value.code in {"ST809", "ST810"}


def test_harm_leads_to_the_guilty_code_and_back_without_a_hand(tmp_path, pool):
    shop = Blamed(tmp_path / "shop", pool, settings=", blame=6, false_alarms=0.5", text=WORLD)
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop.rewrite(CLIPPED)
    bad = shop.roles()["champion"]

    controller = shop.controller()
    repaired_ = None
    for _ in range(44):
        shop.live(controller, 1)
        if shop.ctx.store.champion("shop").release.code == shop.ctx.store.release(good).release.code:
            repaired_ = shop.roles()["champion"]
            break

    told = {event.kind: event for event in shop.events()}
    assert repaired_, [f"{event.at:%d} {event.kind} {event.sentence}" for event in shop.events()]
    assert told["blamed"].body["bad"] == bad or told["blamed"].body["outcome"] == "changes"
    assert good_before(shop.ctx.store, shop.ctx.store.release(bad).id) == good
    blamed = status(shop.ctx.store, "shop", at=None)["blame"]
    assert (blamed["state"], blamed["event"]) == ("over", told["blamed"].id)
    assert repaired_[:8] in blamed["sentence"]
    shop.ctx.store.close()
