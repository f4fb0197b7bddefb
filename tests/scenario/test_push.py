"""Pushes: what the loop does with commits, in a real git repository."""

from __future__ import annotations

import subprocess

import pytest
from living import Live

from staytrue.engines.process import ProcessPool
from staytrue.kernel.release import Digest
from staytrue.loop.context import release_context
from staytrue.loop.controller import Controller
from staytrue.loop.follow import follower

TEST = """
from app import app


def test_the_app_has_a_name():
    assert app.name == "shop"
"""


class Repository(Live):
    """The app in a repository whose branch the loop follows."""

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
        argv = ["git", *who, *arguments]
        return subprocess.run(argv, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def started(self) -> Controller:
        (self.folder / "test_app.py").write_text(TEST)
        (self.folder / ".gitignore").write_text(".staytrue\nnow\n")
        self.git("init", "-q", "-b", "main")
        self.commit("Begin")
        controller = self.following()
        self.live(controller, 1)
        return controller

    def following(self) -> Controller:
        """A controller with the champion's code, as the process starts one."""
        role = self.ledger.role("shop", "live", "champion")
        if role is not None and role.release:
            release = self.ctx.store.release_document(Digest(role.release))
            self.ctx = release_context(self.ctx.store, release, self.folder)
        made = self.controller()
        made.follower = follower(self.ctx.store, self.folder / "app.py")
        return made

    def commit(self, message: str, **files: str) -> str:
        for name, text in files.items():
            (self.folder / name.replace("_dot_", ".")).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def app(self, old: str, new: str) -> str:
        text = (self.folder / "app.py").read_text()
        assert text.count(old) == 1
        return text.replace(old, new)

    def trainings(self) -> int:
        return len(self.ledger.events("shop", "trainings", kinds=["trained"]))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ProcessPool(tmp_path / "jobs") as pool:
        made = Repository(tmp_path / "shop", pool)
        yield made
        made.ctx.store.close()


def test_docs_only_trains_nothing_and_changes_nothing_but_the_code_id(shop):
    controller = shop.started()
    before = shop.roles()["champion"], shop.trainings()

    shop.commit("Say more", README_dot_md="# The shop\n")
    is_ours = controller.turn()

    release = shop.ctx.store.release_document(Digest(shop.roles()["champion"]))
    old = shop.ctx.store.release_document(Digest(before[0]))
    assert not is_ours  # the process starts anew, with the new code
    assert shop.story() == ["deployed", "pushed", "deployed"]
    assert shop.trainings() == before[1]
    assert (release.model, release.recipe, release.tables) == (old.model, old.recipe, old.tables)
    assert release.code != old.code


def test_a_broken_test_is_refused_and_the_old_release_goes_on(shop):
    controller = shop.started()
    before = shop.roles()

    shop.commit("Break it", test_app_dot_py="def test_it():\n    assert 1 == 2\n")

    assert controller.turn()
    (refused,) = shop.events("refused")
    assert "tests" in refused.sentence
    assert shop.roles() == before
    controller.turn()
    assert len(shop.events("refused")) == 1  # told once


def test_a_broken_import_is_refused(shop):
    controller = shop.started()
    before = shop.roles()

    shop.commit("Break it", app_dot_py=shop.app("import numpy as np", "import numpy as np\nimport there_is_none"))

    assert controller.turn()
    assert "there_is_none" in shop.events("refused")[0].sentence
    assert shop.roles() == before


def test_worse_predictions_are_refused_in_the_backtest(shop):
    controller = shop.started()
    before = shop.roles()

    shop.commit("Guess", app_dot_py=shop.app('rows["size"])\n', 'rows["size"]) + 9\n'))

    assert controller.turn()
    (refused,) = shop.events("refused")
    assert "backtest" in refused.sentence
    assert shop.roles() == before


def test_another_serving_path_with_equal_answers_is_let_in_without_a_trial(shop):
    controller = shop.started()
    before = shop.trainings()

    text = shop.app(
        'return np.polyval(model, rows["size"])', 'sizes = rows["size"]\n    return np.polyval(model, sizes)'
    )
    shop.commit("Refactor", app_dot_py=text)

    assert not controller.turn()
    assert shop.story() == ["deployed", "pushed", "deployed"]
    assert shop.trainings() == before


def test_a_feature_is_tested_trained_tried_and_live(shop):
    controller = shop.started()
    text = shop.app("sales.tail(240)", "sales.tail(360)")

    shop.commit("Learn from more", app_dot_py=text)
    assert controller.turn()
    assert shop.story()[:4] == ["deployed", "pushed", "backtest", "shadow"]
    promoted = shop.until(controller, "promoted")

    assert shop.roles()["champion"] == promoted.body["release"]
    again = shop.following()
    assert again.ctx.code == shop.ctx.store.release_document(Digest(promoted.body["release"])).code
    shop.live(again, 2)
    assert again.life is not None
    assert again.life.release == promoted.body["release"]
    assert "champion is made" not in " ".join(shop.said)


def test_a_rewritten_and_a_deleted_branch_are_told_of_and_the_release_goes_on(shop):
    controller = shop.started()
    shop.commit("Say more", README_dot_md="# The shop\n")
    controller.turn()
    controller = shop.following()

    shop.git("commit", "-q", "--amend", "-m", "Say it better")
    controller.turn()
    assert "rewritten" in shop.events("pushed")[-1].sentence
    champion = shop.roles()["champion"]
    shop.git("checkout", "-q", "--detach")
    shop.git("branch", "-q", "-D", "main")
    controller.turn()
    controller.turn()

    assert "is gone" in shop.events("pushed")[-1].sentence
    assert shop.roles()["champion"] == champion
    shop.git("branch", "main")
    controller.turn()
    assert "Nothing of the app differs" in shop.events("pushed")[-1].sentence


def test_a_commit_that_came_while_nobody_ran_is_seen_afterwards(shop):
    shop.started()
    shop.commit("Break it", test_app_dot_py="def test_it():\n    assert 1 == 2\n")

    shop.following().turn()

    assert len(shop.events("refused")) == 1
