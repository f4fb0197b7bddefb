"""`staytrue check` and `staytrue deploy`: what a change has to pass before anybody is answered by it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from changes import git, step, steps
from markdown_it import MarkdownIt

from staytrue import testing
from staytrue.dashboard.report import report
from staytrue.store.block import Layout
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, traffic_folder
from staytrue.store.store import open_store

STEPS = ["import", "tests", "contract", "identity", "release", "backtest", "requests"]
DOCUMENT = {
    "app", "what", "commit", "code", "against", "verdict", "sentence", "release", "change", "remembered", "steps",
}  # fmt: skip
DOWN = "database-is-down"
"""While a file of that name lies in the user's folder, the source can't be asked."""
PLAIN = '[tool.staytrue]\ntest = "none"\n'


def scripted(script: str) -> str:
    """A pyproject.toml whose tests are a script."""
    return f"[tool.staytrue]\ntest = {json.dumps(f'{sys.executable} {script}')}\n"


@pytest.fixture(scope="session")
def _kept_champion(tmp_path_factory, _kept_sales) -> Path:
    """The shop with a champion, in a git repository of its own; made once."""
    place = tmp_path_factory.mktemp("champion")
    shutil.copytree(_kept_sales.parent / "shop", place / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_kept_sales, place / "store")
    (place / "shop" / "pyproject.toml").write_text(PLAIN)
    (place / "shop" / ".gitignore").write_text(f"{DOWN}\n__pycache__\n")
    app = (place / "shop" / "app.py").read_text()
    down = (
        f"import pathlib\n    if pathlib.Path({DOWN!r}).exists():\n        raise OSError('the database is down')\n    "
    )
    (place / "shop" / "app.py").write_text(app.replace("return between", f"{down}return between"))
    with testing.bench(place / "shop" / "app.py", place) as bench:
        assert bench.train().promoted
    git(place / "shop", "init", "-q", "-b", "main")
    git(place / "shop", "add", "-A")
    git(place / "shop", "commit", "-q", "-m", "first")
    return place


@pytest.fixture
def live(shop, _kept_champion):
    """The shop with a champion, whose folder is a git repository with one commit."""
    shutil.rmtree(shop.folder)
    shutil.copytree(_kept_champion / "shop", shop.folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_kept_champion / "store", shop.store_path)
    return shop


def log_requests(shop, sizes: list[float | None], *, arm: str = "champion") -> None:
    """Requests as a server would have logged them a moment ago."""
    columns = (("size", "float64"), ("city", "string"))
    at = datetime.now(UTC) - timedelta(minutes=1)
    us = int(at.timestamp() * 1_000_000)
    values = {"size": sizes, "city": ["porto"] * len(sizes)}
    header = {
        "kind": "predictions",
        "app": "shop",
        "release": shop.champion(),
        "columns": columns,
        "key": None,
        "time": None,
    }
    with closing(open_store(shop.store_path)) as store:
        writer = SegmentWriter(traffic_folder(store.root, "shop", "predictions"), header)
        requests = [
            (((us // 1000) << 80 | 0x7 << 76 | 0b10 << 62 | n << 32).to_bytes(16, "big"), 1) for n in range(len(sizes))
        ]
        body = pack_body(seq=1, at_us=us, arm=arm, block=Layout(columns).block(values).pack(), requests=requests)
        writer.append(body, pack_answers([b"[20.0]"] * len(sizes)))
        writer.close()


# ---------------------------------------------------------------- what a change is


def test_a_docs_only_change_trains_nothing_and_deploys_nothing_but_the_code_id(live):
    before = live.champion()
    live.write("# Shop\n", name="README.md")

    sent = live.run("deploy")

    assert sent.code == 0, sent.err
    document = sent.document["check"]
    assert document.keys() == DOCUMENT
    assert [one["name"] for one in document["steps"]] == STEPS
    assert document["change"] == "docs"
    assert steps(document)["backtest"] == steps(document)["requests"] == "skipped"
    assert sent.document["delivered"]["promoted"]
    with closing(live.store) as store:
        old, new = store.release(before).release, store.champion("shop").release
    assert (old.model, old.golden, old.training_code) == (new.model, new.golden, new.training_code)
    assert old.code != new.code
    assert len(live.events("trained")) == 1


def test_a_refactoring_reuses_the_model_and_gives_equal_answers(live):
    live.edit(
        '    return np.polyval(model, rows["size"])\n',
        '    sizes = rows["size"]\n    return np.polyval(model, sizes)\n',
    )

    said = live.run("check")

    assert said.code == 0, said.err
    assert said.document["change"] == "code"
    assert step(said.document, "release")["numbers"]["trained"] is False
    assert "not one differs" in step(said.document, "backtest")["sentence"]
    assert len(live.events("trained")) == 1


def test_a_feature_change_is_trained_and_compared_and_nothing_is_delivered(live):
    live.edit('sales["size"], sales["rate"], 1', 'sales["size"].tail(700), sales["rate"].tail(700), 1')

    said = live.run("check")

    assert said.code == 0, said.err
    assert said.document["change"] == "recipe"
    backtest = step(said.document, "backtest")["numbers"]
    assert backtest["challenger_loss"] < backtest["champion_loss"]
    assert step(said.document, "release")["numbers"]["trained"] is True
    assert live.champion() != said.document["release"]


def test_a_change_that_makes_predictions_worse_is_refused_whether_it_trains_or_not(live):
    live.edit('np.polyval(model, rows["size"])', 'np.polyval(model, rows["size"]) * 1.5')
    said = live.run("check")
    assert said.code == 1
    assert steps(said.document)["backtest"] == "failed"
    assert said.document["release"] is None

    live.edit(" * 1.5", "").edit('["rate"], 1).tolist()', '["rate"] * 1.5, 1).tolist()')
    said = live.run("deploy")
    assert said.code == 1
    assert steps(said.document["check"])["backtest"] == "failed"
    assert said.document["delivered"] is None
    assert [event["kind"] for event in live.events()].count("deployed") == 1


def test_nothing_changed_is_nothing_to_deploy(live):
    said = live.run("deploy")

    assert said.code == 0
    assert said.document["check"]["steps"][3]["numbers"]["change"] == "same"
    assert said.document["order"] is said.document["delivered"] is None


# ---------------------------------------------------------------- what fails


def test_a_broken_import_is_refused_with_its_reason_and_nothing_after_it_is_run(live):
    live.edit("from staytrue import App", "from staytrue import App\n\nimport no_such_module")

    said = live.run("check")

    assert said.code == 1
    assert list(steps(said.document).values()) == ["failed"] + ["skipped"] * 6
    assert "no_such_module" in step(said.document, "import")["sentence"]


def test_a_file_that_does_not_parse_is_refused(live):
    live.write("def broken(:\n", name="shop_history.py")

    said = live.run("check")

    assert said.code == 1
    assert steps(said.document)["import"] == "failed"


def test_a_broken_test_is_refused_with_the_end_of_its_output(live):
    live.write("raise SystemExit('the price of a room is negative')\n", name="checks.py")
    live.write(scripted("checks.py"), name="pyproject.toml")

    said = live.run("check")

    assert said.code == 1
    assert steps(said.document)["tests"] == "failed"
    assert "exit code 1" in step(said.document, "tests")["sentence"]
    assert "negative" in step(said.document, "tests")["numbers"]["tail"]


def test_pytest_is_the_default_and_runs_in_a_copy_that_is_thrown_away(live):
    live.write("[tool.staytrue]\n", name="pyproject.toml")
    live.write(
        "import os, pathlib, app\n\n\ndef test_where_we_are():\n"
        "    assert os.environ['STAYTRUE_CHECK'] == '1'\n"
        "    assert app.app.name == 'shop'\n"
        f"    assert not pathlib.Path.cwd().is_relative_to({str(live.folder)!r})\n"
        "    pathlib.Path('app.py').write_text('ruined')\n",
        name="test_app.py",
    )

    said = live.run("check")

    assert said.code == 0, said.document
    assert "1 passed" in step(said.document, "tests")["sentence"]
    assert "ruined" not in (live.folder / "app.py").read_text()
    assert live.verifies()


def test_a_source_that_breaks_its_contract_under_the_new_code_is_refused(live):
    live.edit("return between(since, until)", 'return between(since, until).rename(columns={"rate": "price"})')

    said = live.run("check")

    assert said.code == 1
    assert steps(said.document)["contract"] == "failed"
    assert "ST231" in step(said.document, "contract")["sentence"]


def test_a_source_that_gives_other_rows_is_told_and_passes(live):
    live.edit("return between(since, until)", "return between(since, until).iloc[1:]")

    said = live.run("check")

    assert said.code == 0, said.err
    assert step(said.document, "contract")["numbers"]["sources"][0]["against_kept"]["removed"] == 1


def test_a_source_that_nobody_can_ask_says_nothing_of_the_change(live):
    live.write("# Shop\n", name="README.md")
    (live.folder / DOWN).touch()

    said = live.run("check")

    assert (said.code, said.document["code"]) == (5, "ST840")
    (live.folder / DOWN).unlink()
    assert live.run("check").code == 0


def test_a_failed_check_is_not_run_again_for_the_same_code_release_and_rows(live, tmp_path):
    count = tmp_path / "count"
    live.write(f"open({str(count)!r}, 'a').write('x'); raise SystemExit(3)\n", name="checks.py")
    live.write(scripted("checks.py"), name="pyproject.toml")

    first, second = live.run("check"), live.run("check")

    assert count.read_text() == "x"
    assert (first.document["remembered"], second.document["remembered"]) == (False, True)
    assert second.code == first.code == 1
    assert steps(second.document) == steps(first.document)
    live.run("check", "--again")
    assert count.read_text() == "xx"


# ---------------------------------------------------------------- logged requests


def test_logged_requests_are_asked_of_both_and_the_difference_is_measured(live):
    log_requests(live, [1.0, 2.0, 3.0, 4.0])
    log_requests(live, [9.0], arm="shadow")
    live.edit('np.polyval(model, rows["size"])', 'np.polyval(model, rows["size"]) + 0.01 * (rows["size"] > 2.5)')

    said = live.run("check")

    assert said.code == 0, said.document
    found = step(said.document, "requests")["numbers"]
    assert (found["rows"], found["differ"], found["failing"]) == (4, 2, 0)
    assert found["by"]["max"] == pytest.approx(0.01)
    assert [one["request"]["size"] for one in found["most"]] == [3.0, 4.0]


def test_a_request_that_fails_only_under_the_new_code_fails_the_check(live):
    log_requests(live, [1.0, 2.0, 7.5])
    live.edit(
        '    return np.polyval(model, rows["size"])',
        '    if (rows["size"] > 7).any():\n        raise ValueError("too large")\n    return np.polyval(model, rows["size"])',
    )

    said = live.run("check")

    assert said.code == 1
    found = step(said.document, "requests")
    assert found["status"] == "failed"
    assert (found["numbers"]["failing"], found["numbers"]["rows"]) == (1, 3)
    assert found["numbers"]["failures"][0]["request"]["size"] == 7.5
    assert "too large" in found["sentence"]


def test_only_the_newest_requests_are_asked(live):
    log_requests(live, [1.0, 2.0, 3.0])
    live.edit('np.polyval(model, rows["size"])', 'np.polyval(model, rows["size"]) + 0.001')

    assert step(live.run("check", "--requests", "2").document, "requests")["numbers"]["rows"] == 2


def test_equal_golden_answers_are_not_enough_where_other_rows_tell_the_two_apart(live):
    log_requests(live, [1.0, 77.0])
    live.edit('np.polyval(model, rows["size"])', 'np.polyval(model, rows["size"]) + (rows["size"] > 50)')

    said = live.run("deploy")

    assert step(said.document["check"], "requests")["numbers"]["differ"] == 1
    assert "not one differs" in step(said.document["check"], "backtest")["sentence"]
    assert (said.code, said.document["delivered"]["promoted"]) == (1, False)


# ---------------------------------------------------------------- against what


def test_against_a_git_revision_it_works_without_a_store(live, tmp_path, monkeypatch):
    live.edit('["rate"], 1).tolist()', '["rate"] + 4, 1).tolist()')
    none = tmp_path / "none"
    span = ["--since", "2026-01-01", "--until", "2026-02-20"]

    said = live.run("check", "--against", "HEAD", *span, store=none)

    assert said.code == 1, said.document
    assert said.document["against"].startswith("HEAD (")
    assert steps(said.document)["backtest"] == "failed"
    assert not none.exists()
    git(live.folder, "commit", "-qam", "second")
    alone = live.run("check", *span, store=none)
    assert alone.code == 0, alone.document
    assert steps(alone.document)["release"] == "passed"
    assert not none.exists()


def test_against_a_revision_that_was_released_it_is_that_release(live):
    first = live.champion()
    live.write("# Shop\n", name="README.md")

    by_revision = live.run("check", "--against", "main")
    by_release = live.run("check", "--against", first[:10])

    assert by_revision.code == by_release.code == 0
    assert step(by_revision.document, "identity")["numbers"]["against"] == first
    assert step(by_release.document, "identity")["numbers"]["against"] == first


def test_against_what_is_neither_a_release_nor_a_revision_is_told_so(live):
    said = live.run("check", "--against", "no-such-thing")

    assert (said.code, said.document["code"]) == (3, "ST842")


def test_a_first_release_is_deployed_unopposed(stocked):
    stocked.write(PLAIN, name="pyproject.toml")

    said = stocked.run("deploy")

    assert said.code == 0, said.err
    assert said.document["delivered"]["verdict"] == "unopposed"
    assert stocked.champion() == said.document["delivered"]["release"]
    assert stocked.verifies()


# ---------------------------------------------------------------- the report


def test_the_report_is_markdown_with_the_verdict_first_and_nothing_of_the_users_in_its_frame(live):
    log_requests(live, [1.0, 2.0, 7.5])
    live.edit(
        '    return np.polyval(model, rows["size"])',
        '    if (rows["size"] > 7).any():\n        raise ValueError("<script>|x|` @everyone [a](b)")\n'
        '    return np.polyval(model, rows["size"])',
    )
    document = live.run("check").document

    text = report(document)

    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[0] == "❌ shop: the work tree failed its check"
    tables = [token for token in tokens if token.type == "table_open"]
    assert len(tables) == 5
    rows = text.splitlines()
    widths = {row.count("|") for row in rows if row.startswith("| ") and "requests" not in row}
    assert widths <= {3, 4, 5}
    assert "<script>" not in text
    assert "@everyone" not in text
    assert "[a](b)" not in text
    assert report(document) == text


def test_the_verb_prints_the_report_and_its_exit_code_is_the_verdict(live, staytrue):
    code, out, err = staytrue("check", "--app", live.folder / "app.py", "--store", live.store_path)

    assert (code, out.splitlines()[0]) == (0, "## ✅ shop: the work tree passed its check")
    assert "import ..." in err
    (live.folder / "app.py").write_text("1 / 0")
    code, out, _ = staytrue("check", "--app", live.folder / "app.py", "--store", live.store_path)
    assert code == 1
    assert "ZeroDivisionError" in out


# ---------------------------------------------------------------- with a living loop


def test_deploy_asks_the_loop_where_one_lives(live):
    beat = live.store_path / "work" / "loop" / "shop.beat"
    beat.parent.mkdir(parents=True, exist_ok=True)
    beat.write_text(json.dumps({"pid": os.getpid(), "epoch": 1, "count": 1, "state": "watching"}))
    ahead = time.time() + 600
    os.utime(beat, (ahead, ahead))  # it is fresh however long the check takes
    live.write("# Shop\n", name="README.md")
    before = live.champion()

    said = live.run("deploy", "--why", "the docs were wrong")

    assert said.code == 0, said.err
    assert said.document["delivered"] is None
    order = said.document["order"]
    assert (order["what"], order["code"], order["why"]) == (
        "deploy",
        said.document["check"]["code"],
        "the docs were wrong",
    )
    assert live.champion() == before
    (asked,) = live.events("asked")
    assert asked["body"]["code"] == order["code"]
