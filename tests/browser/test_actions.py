"""Every action, by clicking: what a page says beforehand and afterwards, and what became of it. And who may not act."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from playwright.sync_api import Locator, Page, expect
from server import until

from staytrue.store.ledger import LIVE
from staytrue.store.store import Store

SHOP = "/apps/shop"
LONG_S = 90
"""For what asks releases or trains, on a machine that others use too."""


# ------------------------------------------------------------ what a person does


def pressed(page: Page, link: str) -> None:
    """Follow what looks like a button."""
    page.get_by_role("link", name=link).first.click()


def confirmed(page: Page, button: str, *, why: str = "") -> None:
    """Say why, and confirm what the page asks."""
    page.get_by_label("Why, for the log").fill(why)
    page.get_by_role("button", name=button).click()


def note(page: Page) -> Locator:
    """What the page tells of what was asked."""
    return page.get_by_role("main").get_by_role("status").first


def said(page: Page, words: str) -> None:
    """The note says this; once it is done, where that takes a while."""
    expect(note(page)).to_contain_text(words, timeout=1_000 * LONG_S)


def foretold(page: Page) -> str:
    """What the page says will happen."""
    return page.get_by_role("region", name="What will happen").inner_text()


# ------------------------------------------------------------ what became of it


def events(kept, kind: str, timeline: str = LIVE) -> list:
    store = Store(kept.store)
    found = store.ledger.events("shop", timeline, kinds=[kind])
    store.close()
    return found


def roles(kept) -> dict[str, str]:
    store = Store(kept.store)
    found = {role.role: role.release for role in store.ledger.roles("shop", LIVE) if role.release}
    store.close()
    return found


def asked(kept) -> list[tuple[str, str | None]]:
    """The orders, with their reasons."""
    return [(one.body["what"], one.body.get("why")) for one in events(kept, "asked", "orders")]


def newest(server) -> int:
    """The number of the newest event of all."""
    return server.get(f"/api{SHOP}/log?timeline=all").json["events"][0]["seq"]


def fate(server) -> str:
    """What became of the window that was refused last."""
    return server.get(f"/api{SHOP}/data/sales").json["quarantine"][-1]["state"]


def staytrue(kept, *words: str) -> dict:
    command = [sys.executable, "-m", "staytrue", *words, "--json", "--store", str(kept.store)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.fixture
def up(stage, serve):
    """`up("on trial")`: a store of one's own, and its server with a controller that lives."""

    def begin(name: str):
        kept = stage(name)
        return kept, serve(kept, *kept.served)

    return begin


# ------------------------------------------------------------ the loop


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_the_loop_is_paused_and_goes_on_again(script, up, visitor) -> None:
    kept, server = up("on trial")
    page = visitor.page(server.url + SHOP, java_script_enabled=script)

    pressed(page, "Pause")
    assert "begins nothing new until staytrue resume" in foretold(page)
    confirmed(page, "Pause the loop", why="a look at the <data>")
    said(page, "begins nothing new")
    expect(page.get_by_text("A person paused the loop").first).to_be_visible()
    (paused,) = until(lambda: events(kept, "paused"), "a pause")
    assert "a look at the <data>" in paused.sentence

    pressed(page, "Let it go on")
    assert "goes on with what has come since" in foretold(page)
    confirmed(page, "Let the loop go on")
    said(page, "goes on")
    until(lambda: events(kept, "resumed"), "that it goes on")
    if not script:
        page.reload()
    expect(page.get_by_text("A person paused the loop")).to_have_count(0)
    assert asked(kept) == [("pause", "a look at the <data>"), ("resume", None)]


def test_no_leaves_everything_as_it_is(living, visitor) -> None:
    before = newest(living)
    page = visitor.page(living.url + SHOP)

    for link in ("Pause", "Promote", "Reject", "Undo the last decision ..."):
        pressed(page, link)
        page.get_by_label("Why, for the log").fill("no reason")
        pressed(page, "No, leave it as it is")
        expect(page).to_have_url(living.url + SHOP)

    assert newest(living) == before


# ------------------------------------------------------------ a challenger


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_a_challenger_on_trial_is_promoted(script, up, visitor) -> None:
    kept, server = up("on trial")
    before = roles(kept)
    page = visitor.page(server.url + SHOP, java_script_enabled=script)

    pressed(page, "Promote")
    assert f"Challenger {before['challenger'][:8]} becomes champion" in foretold(page)
    assert f"From the champion {before['champion'][:8]} it differs in data" in foretold(page)
    confirmed(page, f"Promote {before['challenger'][:8]}", why="it is better")
    said(page, "becomes champion")

    until(lambda: roles(kept) == {"champion": before["challenger"], "previous": before["champion"]}, "another champion")
    (promoted,) = events(kept, "promoted")
    assert "it is better" in promoted.sentence
    server.answered_by(before["challenger"], row={"size": 2.0})


def test_a_challenger_on_trial_is_rejected_from_its_own_page(up, visitor) -> None:
    kept, server = up("on trial")
    before = roles(kept)
    page = visitor.page(f"{server.url}{SHOP}/releases/{before['challenger']}")

    pressed(page, "Reject ...")
    assert "is taken off trial, and the champion stays" in foretold(page)
    confirmed(page, f"Reject {before['challenger'][:8]}", why="not this one")
    said(page, "is taken off trial")

    (rejected,) = until(lambda: events(kept, "rejected"), "a rejection")
    assert "not this one" in rejected.sentence
    assert roles(kept) == {"champion": before["champion"]}


@pytest.mark.parametrize(("button", "kind"), [("Approve", "promoted"), ("Reject", "rejected")])
def test_a_challenger_that_waits_is_decided_on_from_its_incident(button, kind, up, visitor) -> None:
    kept, server = up("waiting")
    before = roles(kept)
    page = visitor.page(f"{server.url}{SHOP}/incidents")

    pressed(page, "approval")
    pressed(page, f"{button} ...")
    confirmed(page, f"{button} {before['challenger'][:8]}")
    said(page, f"Challenger {before['challenger'][:8]}")

    until(lambda: events(kept, kind), kind)
    assert roles(kept)["champion"] == before["challenger" if kind == "promoted" else "champion"]
    assert "challenger" not in roles(kept)
    page.goto(f"{server.url}{SHOP}/incidents")
    expect(page.get_by_role("listitem").filter(has_text="approval")).to_contain_text("resolved")


def test_what_is_asked_twice_is_done_once(up, visitor) -> None:
    kept, server = up("on trial")
    challenger = roles(kept)["challenger"]
    page, other = (visitor.page(f"{server.url}{SHOP}/confirm/promote?release={challenger}") for _ in range(2))

    page.get_by_role("button", name="Promote").dblclick()
    said(page, "Promote")
    until(lambda: roles(kept)["champion"] == challenger, "another champion")
    confirmed(other, "Promote")
    said(other, f"Release {challenger[:8]} is champion already.")

    # What came twice before the loop acted is declined the second time.
    until(lambda: len(events(kept, "declined")) == len(asked(kept)) - 1, "an end of each order")
    assert len(events(kept, "promoted")) == 1


# ------------------------------------------------------------ data


@pytest.mark.parametrize(
    ("words", "foreseen", "state"),
    [
        (("Let it in ...", "Let this window in"), "the next training learns from them", "released"),
        (("Drop it ...", "Drop this window"), "never come into the table", "dropped"),
    ],
)
def test_a_window_in_quarantine_is_decided_on(words, foreseen, state, up, visitor) -> None:
    link, button = words
    kept, server = up("on trial")
    page = visitor.page(f"{server.url}{SHOP}/data")
    pressed(page, "sales")
    rows = server.get(f"/api{SHOP}/data/sales").json["rows"]
    assert fate(server) == "held"

    pressed(page, link)
    assert foreseen in foretold(page)
    assert "ST925" in foretold(page)
    confirmed(page, button, why="I looked at it")
    said(page, "I looked at it")

    (decided,) = events(kept, state, "data")
    assert "I looked at it" in decided.sentence
    assert fate(server) == state
    assert server.get(f"/api{SHOP}/data/sales").json["rows"] == rows + 60 * (state == "released")


def test_the_last_decision_of_the_loop_is_undone(up, visitor) -> None:
    kept, server = up("promoted")
    page = visitor.page(server.url + SHOP)

    pressed(page, "Undo the last decision ...")
    assert "(60 rows) are let into the table as they came" in foretold(page)
    confirmed(page, "Undo a decision", why="it was in cents")
    said(page, "undid what the loop decided")

    (undone,) = events(kept, "undone", "data")
    assert "it was in cents" in undone.sentence
    assert fate(server) == "released"


def test_a_release_is_trained_on_the_newest_rows(up, visitor) -> None:
    kept, server = up("promoted")
    champion = roles(kept)["champion"]
    page = visitor.page(f"{server.url}{SHOP}/data")

    pressed(page, "Train on the newest rows")
    assert "goes through the same trial as any other release" in foretold(page)
    confirmed(page, "Train on the newest rows")
    said(page, "is asked to retrain, and tries what comes out")

    assert asked(kept)[-1] == ("retrain", "refresh")
    until(lambda: "challenger" in roles(kept), "a new challenger", seconds=LONG_S)
    assert roles(kept)["champion"] == champion


# ------------------------------------------------------------ going back


def test_going_back_to_the_whole_of_an_older_release_is_for_the_loop_to_try(up, visitor) -> None:
    kept, server = up("promoted")
    before = roles(kept)
    page = visitor.page(f"{server.url}{SHOP}/releases")

    pressed(page, before["previous"][:8])
    pressed(page, "Take it back ...")
    assert f"Release {before['previous'][:8]} would answer again" in foretold(page)
    confirmed(page, f"Go back to release {before['previous'][:8]}", why="it was better")
    said(page, f"Release {before['previous'][:8]} is handed to the loop")

    # On the rows that are kept it loses more: the champion stays.
    (tried,) = until(lambda: events(kept, "tried"), "what the loop says of it", seconds=LONG_S)
    assert tried.body["release"] == before["previous"]
    assert "the champion stays" in tried.sentence
    assert asked(kept)[-1] == ("try", f"code, data, model taken from {before['previous'][:8]} (it was better)")
    assert roles(kept) == before


def test_an_incident_leads_back_to_the_release_that_was_good(stage, serve, visitor) -> None:
    kept = stage("promoted")
    before = roles(kept)
    good = before["previous"][:8]
    staytrue(kept, "blame", good, before["champion"][:8], "--app", str(kept.folder / "app.py"))
    server = serve(kept, *kept.served)
    page = visitor.page(f"{server.url}{SHOP}/incidents")

    pressed(page, "fault (sales)")
    pressed(page, f"Go back to {good} ...")
    assert f"Release {good} would answer again" in foretold(page)
    confirmed(page, f"Go back to release {good}")
    said(page, f"Release {good} is handed to the loop")

    assert asked(kept)[-1] == ("try", f"code, data, model taken from {good}")
    assert roles(kept) == before


def test_going_back_to_older_code_only_keeps_the_model(stage, serve, visitor) -> None:
    kept = stage("promoted")
    older = roles(kept)["champion"]
    file = kept.folder / "app.py"
    file.write_text(file.read_text() + "\n# a word more\n")
    newer = staytrue(kept, "deploy", "--now", "--app", str(file))["delivered"]["release"]
    server = serve(kept, *kept.served)
    page = visitor.page(f"{server.url}{SHOP}/releases/{older}")

    pressed(page, "Its code only ...")
    assert "From the champion it differs in code" in foretold(page)
    confirmed(page, f"Take code back to {older[:8]}")
    said(page, "handed to the loop")

    # Nobody can tell its answers from the champion's: it needs no trial.
    until(lambda: roles(kept)["champion"] == older, "the older code again", seconds=LONG_S)
    assert roles(kept)["previous"] == newer
    (reverted,) = events(kept, "reverted")
    assert reverted.body["release"] == older


# ------------------------------------------------------------ who may act


FORGED = {
    "another site": {"Origin": "https://evil.example"},
    "another port": {"Origin": "http://localhost:1"},
    "a frame without an origin": {"Origin": "null"},
    "a link": {"Sec-Fetch-Site": "cross-site"},
}


def test_a_page_of_somebody_else_acts_in_nobodys_name(living, visitor) -> None:
    page = visitor.page(living.url + SHOP)
    before = newest(living)

    for whence, headers in FORGED.items():
        got = page.request.post(f"{living.url}/actions/pause", form={"app": "shop"}, headers=headers)
        assert got.status == 403, whence

    assert newest(living) == before


def test_a_person_signs_in_acts_as_far_as_the_token_goes_and_signs_out(stage, serve, visitor) -> None:
    visitor.may += ["401: ", "403: "]
    kept = stage("on trial")
    tokens = {
        name: staytrue(kept, "token", "new", name, *(word for one in scopes for word in ("--scope", one)))["token"]
        for name, scopes in {"reader": ["read"], "boss": ["read", "operate"]}.items()
    }
    server = serve(kept, "--no-loop")
    pause = f"{server.url}{SHOP}/confirm/pause"
    page = visitor.page(pause)

    def signs_in(token: str) -> None:
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()

    # A wrong token is none.
    signs_in("st_guess")
    expect(page.get_by_text("This server has no such token")).to_be_visible()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()

    # Who may only look is led to the page that was asked for, without its button, and refused all the same.
    signs_in(tokens["reader"])
    expect(page).to_have_url(pause)
    expect(page.get_by_text("Your token may look, and not act")).to_be_visible()
    expect(page.get_by_role("button", name="Pause the loop")).to_have_count(0)
    page.goto(server.url + SHOP)
    expect(page.get_by_role("link", name="Pause")).to_have_count(0)
    csrf = page.locator("input[name=csrf]").first.get_attribute("value")
    here = {"Origin": server.url}
    got = page.request.post(f"{server.url}/actions/pause", form={"app": "shop", "csrf": csrf}, headers=here)
    assert (got.status, asked(kept)) == (403, [])
    page.get_by_role("button", name="Sign out reader").click()
    expect(page.get_by_label("Token")).to_be_visible()

    # Who may act says so by a form of ours: its secret belongs to this very token.
    page.goto(pause)
    signs_in(tokens["boss"])
    for form in ({}, {"csrf": ""}, {"csrf": csrf}):
        got = page.request.post(f"{server.url}/actions/pause", form={"app": "shop", **form}, headers=here)
        assert (got.status, asked(kept)) == (403, [])
    confirmed(page, "Pause the loop", why="a look")
    said(page, "begins nothing new")
    ((paused),) = events(kept, "asked", "orders")
    assert (paused.body["what"], paused.body["by"], paused.body["why"]) == ("pause", "boss", "a look")

    # Signing out is the end of it.
    page.get_by_role("button", name="Sign out boss").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.goto(pause)
    expect(page.get_by_label("Token")).to_be_visible()
    got = page.request.post(f"{server.url}/actions/resume", form={"app": "shop"}, headers=here)
    assert (got.status, asked(kept)) == (401, [("pause", "a look")])
