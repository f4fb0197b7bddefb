"""What `--json` prints: one document per verb, with the documented fields."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest

from staytrue import testing

POLICY = {
    "policy",
    "loss",
    "loss_interval",
    "retrains",
    "trained",
    "promoted",
    "rejected",
    "bad_days",
    "cost",
    "seconds",
}
EVENT = {"at", "policy", "kind", "release", "sentence", "evidence"}


@pytest.fixture(scope="session")
def _kept_story(tmp_path_factory, _kept_sales) -> Path:
    place = tmp_path_factory.mktemp("story")
    shutil.copytree(_kept_sales, place / "store")
    with testing.bench(_kept_sales.parent / "shop" / "app.py", place) as bench:
        bench.replay(["every:28d"])
    return place / "store"


@pytest.fixture
def lived(shop, _kept_story):
    """The shop after a replay that is its live story."""
    shutil.copytree(_kept_story, shop.store_path)
    return shop


def test_replay_prints_policies_and_a_timeline(stocked):
    said = stocked.run("replay", "--policy", "every:28d", "--policy", "never", "--since", "2026-03-01")
    document = said.document

    assert said.code == 0
    assert {"app", "since", "until", "rows", "policies", "timeline"} <= document.keys()
    assert (document["app"], document["rows"]) == ("shop", 91 * 20)
    assert [p["policy"] for p in document["policies"]] == ["every:28d", "never"]
    for policy in document["policies"]:
        assert policy.keys() >= POLICY
        low, high = policy["loss_interval"]
        assert low < policy["loss"] < high
        assert all(isinstance(policy[n], int) for n in ("retrains", "trained", "promoted", "rejected", "bad_days"))
    assert all(entry.keys() == EVENT for entry in document["timeline"])
    assert all(datetime.fromisoformat(entry["at"]).tzinfo for entry in document["timeline"])
    assert [e["at"] for e in document["timeline"]] == sorted(e["at"] for e in document["timeline"])
    assert all(entry["sentence"].endswith(".") for entry in document["timeline"])


def test_cost_is_the_summed_loss_and_one_price_for_each_retraining(stocked):
    policies = ["--policy", "never", "--policy", "every:14d", "--policy", "every:28d"]
    story = stocked.run("replay", *policies, "--since", "2026-03-01").document
    never, often, seldom = story["policies"]

    def price(lived):
        return (lived["cost"] - lived["loss"] * story["rows"]) / lived["retrains"] / 20

    assert never["retrains"] == 0
    assert often["retrains"] > seldom["retrains"] > 0
    assert never["cost"] == pytest.approx(never["loss"] * story["rows"], rel=1e-5)
    # In rows' worth of what the first champion lost when it was fresh: the noise has a mean deviation of .8.
    assert price(often) == pytest.approx(price(seldom), abs=0.01)
    assert 0.6 < price(often) < 1.0


def test_fetch_says_what_came_and_what_was_refused(shop):
    said = shop.run("fetch", "--since", "2026-01-01", "--until", "2026-01-11")

    assert said.code == 0
    (one,) = said.document["fetched"]
    assert one.keys() >= {"source", "since", "until", "rows", "parts", "corrected", "quarantined", "breaches", "table"}
    assert (one["source"], one["rows"], one["parts"], one["breaches"]) == ("sales", 200, 10, [])


def test_a_fetch_with_a_window_in_quarantine_ends_with_exit_code_1(shop):
    shop.edit("    return between(since, until)", "    return between(since, until).assign(id=7)")

    said = shop.run("fetch", "--since", "2026-01-01", "--until", "2026-01-03")

    assert said.code == 1
    assert {b["code"] for b in said.document["fetched"][0]["breaches"]} == {"ST234"}


def test_train_says_whether_it_trained_and_what_became_of_it(stocked):
    said = stocked.run("train")

    assert said.document.keys() >= {"trained", "model", "recipe", "delivered"}
    assert said.document["delivered"].keys() >= {"release", "promoted", "verdict", "sentence", "evidence"}
    assert (said.code, said.document["trained"], said.document["delivered"]["promoted"]) == (0, True, True)


def test_status_answers_four_questions(lived):
    said = lived.run("status")

    assert said.document.keys() >= {"app", "at", "champion", "right", "changed", "blame", "next"}
    assert all(said.document[name]["sentence"] for name in ("right", "changed", "blame", "next"))
    assert said.document["right"]["state"] in {"right", "harmed", "unknown"}
    assert said.document["champion"]["release"] == lived.champion()
    assert said.code == (1 if said.document["right"]["state"] == "harmed" else 0)


def test_status_of_an_app_that_nobody_looked_at_is_unknown(stocked):
    stocked.run("train")

    said = stocked.run("status")

    assert said.code == 0
    assert said.document["right"]["state"] == "unknown"


def test_log_and_show_tell_the_same_story(lived):
    log = lived.run("log").document
    (deployed,) = [e for e in log["events"] if e["kind"] == "deployed"]
    release = lived.run("show", deployed["body"]["release"]).document
    event = lived.run("show", deployed["id"]).document
    table = lived.run("show", release["tables"]["sales"]["table"])

    assert deployed.keys() >= {"seq", "id", "app", "timeline", "at", "recorded_at", "kind", "sentence", "body", "hash"}
    assert release.keys() >= {
        "kind", "id", "app", "code", "training_code", "env", "tables", "params", "seed", "model", "recipe", "as_trained",
        "golden", "scores", "parents", "events",
    }  # fmt: skip
    assert (release["kind"], release["id"]) == ("release", deployed["body"]["release"])
    assert event["sentence"] == deployed["sentence"]
    assert deployed["id"] in {e["id"] for e in release["events"]}
    assert table.code == 0
    assert table.document.keys() >= {"kind", "id", "source", "rows", "parts", "since", "until", "columns"}


def test_log_can_be_narrowed(lived):
    kinds = {e["kind"] for e in lived.run("log", "--kind", "deployed", "--kind", "looked").document["events"]}
    newest = lived.run("log", "-n", "2").document["events"]
    nothing = lived.run("log", "--until", "2020-01-01").document["events"]

    assert kinds == {"deployed", "looked"}
    assert len(newest) == 2
    assert nothing == []


def test_diff_of_a_release_with_itself_names_no_axis(lived):
    said = lived.run("diff", lived.champion(), lived.champion())

    assert said.document.keys() >= {
        "a",
        "b",
        "axes",
        "retrains",
        "sentences",
        "code",
        "data",
        "env",
        "params",
        "seed",
        "model",
        "scores",
    }
    assert (said.code, said.document["axes"], said.document["sentences"]) == (0, [], [])


def test_verify_gc_and_doctor_say_that_all_is_well(lived):
    verified = lived.run("verify").document
    rehearsed = lived.run("gc", "--dry-run", "--grace", "0s").document
    swept = lived.run("gc", "--grace", "0s").document
    doctor = lived.run("doctor")

    assert verified.keys() >= {"ok", "objects", "bytes", "problems"}
    assert verified["ok"] is True
    assert rehearsed.keys() >= {"dry_run", "kept", "condemned", "deleted", "restored", "freed_bytes", "why", "blocked"}
    assert (rehearsed["dry_run"], swept["dry_run"]) == (True, False)
    assert doctor.document.keys() >= {"ok", "checks", "settings"}
    assert (doctor.code, doctor.document["ok"]) == (0, True)
    # Nothing that a release needs was swept away.
    assert lived.verifies()
    assert lived.run("revert", "--all", "--now", lived.run("show", "champion").document["parents"][0]).code in {0, 2}
    assert lived.run("replay", "--policy", "never").code == 0


def test_an_error_is_a_document_too(lived):
    said = lived.run("show", "f" * 64)

    assert said.code == 3
    assert said.document.keys() >= {"error", "code", "message", "facts"}
    assert (said.document["error"], said.document["code"]) == ("NotFound", "ST137")


def test_a_store_that_is_not_there_is_not_found_and_not_made(shop):
    said = shop.run("status")

    assert (said.code, said.document["code"]) == (3, "ST470")
    assert not shop.store_path.exists()


def test_new_makes_an_app_with_its_test_and_touches_no_folder_that_is_there(tmp_path, staytrue):
    code, _, err = staytrue("new", "shop", cwd=tmp_path)
    again, _, _ = staytrue("new", "shop", cwd=tmp_path)

    assert code == 0, err
    assert {"app.py", "test_app.py", "README.md", "hotel_rates.csv.gz"} <= {
        p.name for p in (tmp_path / "shop").iterdir()
    }
    assert again == 4


def test_without_json_a_person_reads_lines(lived, staytrue):
    store = ["--store", lived.store_path, "--app", lived.folder / "app.py"]

    for verb in (["status"], ["log"], ["show", "champion"], ["verify"], ["gc", "--dry-run"]):
        code, out, err = staytrue(*verb, *store)
        assert code in {0, 1}, err
        assert out.strip()
        assert "Traceback" not in out + err
