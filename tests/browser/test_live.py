"""A page that is kept open: it shows what changes, says when nobody watches and when it is cut off; and it is light."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import shops
from playwright.sync_api import Error, Page, expect
from server import PATIENCE_S, until

SAID_WITHIN_MS = 5_000
"""That nobody watches, and that a page is cut off."""
PATIENCE_MS = 1_000 * PATIENCE_S
FIRST_PAGE_BYTES, SCRIPT_BYTES = 100_000, 60_000
WANTED = """[...document.querySelectorAll("a[href], button, summary, input, select")]
  .filter((one) => one.checkVisibility() && one.tabIndex >= 0).map((one) => one.outerHTML)"""
FOCUSED = "[document.activeElement.outerHTML, getComputedStyle(document.activeElement).outlineStyle]"
QUESTIONS = ("Is it right", "What changed?", "What is to blame?", "What happens next?")


def staytrue(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "staytrue", *words], check=True, capture_output=True)


def order(kept, what: str) -> None:
    staytrue(what, "--store", str(kept.store), "--app", str(kept.folder / "app.py"))


def marked(page: Page) -> bool:
    """Whether this is still the document that was marked: a reload would have lost the mark."""
    return page.evaluate("window.mark === 1")


def mark(page: Page) -> None:
    page.evaluate("window.mark = 1")


def banner(page: Page):
    return page.locator("#live")


# ------------------------------------------------------------ while it is open


def test_what_changes_appears_without_a_reload_and_what_was_opened_stays_open(stage, serve, visitor) -> None:
    kept = stage("on trial")
    server = serve(kept, *kept.served)
    page = visitor.page(server.url)
    page.locator("#d-changed > summary").click()
    mark(page)

    order(kept, "pause")
    expect(page.locator("#alerts")).to_contain_text("A person paused the loop", timeout=PATIENCE_MS)
    order(kept, "resume")
    expect(page.locator("#alerts")).not_to_contain_text("paused", timeout=PATIENCE_MS)

    assert marked(page)
    expect(page.locator("#d-changed")).to_have_attribute("open", "")


def test_a_dead_controller_is_said_within_five_seconds_and_nothing_stays_green(stage, serve, visitor) -> None:
    kept = stage("promoted")
    server = serve(kept, *kept.served)
    page = visitor.page(server.url)
    expect(page.locator("#now .card").first).to_have_class("card is-right")
    mark(page)
    controller = until(server.controller, "a controller")

    server.process.send_signal(signal.SIGSTOP)  # it would start another one at once
    try:
        began = time.monotonic()
        controller.kill()
        expect(banner(page)).to_contain_text("No controller gives a sign of life", timeout=SAID_WITHIN_MS)
        print(f"\na dead controller was said after {time.monotonic() - began:.1f} s")
        expect(page.locator("#now .card").first).to_have_class("card is-unknown", timeout=SAID_WITHIN_MS)
        expect(page.locator("#alerts")).to_contain_text("Nobody watches")
    finally:
        server.process.send_signal(signal.SIGCONT)

    expect(banner(page)).to_be_hidden(timeout=PATIENCE_MS)
    expect(page.locator("#now .card").first).to_have_class("card is-right", timeout=PATIENCE_MS)
    assert marked(page)


def test_a_page_that_is_cut_off_says_so_and_lives_again_when_the_server_is_back(stage, serve, visitor) -> None:
    visitor.may += ["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "503"]
    kept = stage("on trial")
    first = serve(kept, *kept.served)
    port = first.url.rpartition(":")[2]
    page = visitor.page(first.url)
    expect(page.get_by_role("heading", name="shop", exact=True)).to_be_visible()
    mark(page)

    began = time.monotonic()
    first.end(signal.SIGKILL)
    expect(banner(page)).to_contain_text("Cut off from the server", timeout=SAID_WITHIN_MS)
    print(f"\na lost server was said after {time.monotonic() - began:.1f} s")

    serve(kept, *kept.served, "--port", port)
    expect(banner(page)).to_be_hidden(timeout=PATIENCE_MS)
    order(kept, "pause")
    expect(page.locator("#alerts")).to_contain_text("A person paused the loop", timeout=PATIENCE_MS)
    assert marked(page)


def test_a_page_without_a_network_says_so_at_once(living, visitor) -> None:
    visitor.may.append("ERR_INTERNET_DISCONNECTED")
    context = visitor.context()
    page = visitor.page(living.url, context=context)
    expect(page.get_by_role("heading", name="shop", exact=True)).to_be_visible()

    context.set_offline(True)
    expect(banner(page)).to_contain_text("Cut off from the server", timeout=SAID_WITHIN_MS)
    context.set_offline(False)
    expect(banner(page)).to_be_hidden(timeout=PATIENCE_MS)


def test_an_empty_store_says_what_to_do_and_turns_into_the_app_by_itself(tmp_path, visitor, free_port) -> None:
    visitor.may += ["ERR_CONNECTION", "503"]
    (tmp_path / "shop_history.py").write_text(shops.HISTORY)
    go = tmp_path / "go"
    slow = f"    while not __import__('pathlib').Path({str(go)!r}).exists():\n        __import__('time').sleep(0.05)\n"
    before, asked, after = shops.SHOP.partition("def sales(since, until):\n")
    assert asked
    (tmp_path / "app.py").write_text(before + asked + slow + after)
    command = [sys.executable, "-m", "staytrue", "up", "--port", str(free_port), "--store", str(tmp_path / "store")]
    up = subprocess.Popen([*command, "--app", str(tmp_path / "app.py")], stdout=subprocess.DEVNULL, env=_quiet())
    try:
        page = visitor.page()
        until(lambda: _opened(page, f"http://127.0.0.1:{free_port}"), "a first page")
        expect(page.get_by_role("heading", name="Nothing is here yet")).to_be_visible()
        go.touch()
        expect(page.get_by_role("heading", name="shop", exact=True)).to_be_visible(timeout=2 * PATIENCE_MS)
        for question in QUESTIONS:
            expect(page.get_by_text(question).first).to_be_visible()
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=PATIENCE_S) == 0


def _quiet() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def _opened(page: Page, url: str) -> bool:
    with contextlib.suppress(Error):  # it does not listen yet
        return page.goto(url).status == 200
    return False


# ------------------------------------------------------------ what it never says


def test_without_a_label_it_is_unknown_and_not_green(crowd, visitor) -> None:
    page = visitor.page(f"{crowd.url}/apps/bare")
    expect(page.locator("#now .card").first).to_have_class("card is-unknown")
    expect(page.locator(".verdict")).to_have_text("Unknown")
    assert page.title().startswith("unknown")
    assert page.locator("#now .is-right, #now .state.right").count() == 0


# ------------------------------------------------------------ without a script, a mouse or a screen


@pytest.mark.parametrize("path", ["", "/releases", "/data", "/data/sales", "/incidents", "/replays", "/log", "/jobs"])
def test_every_page_reads_without_javascript(crowd, visitor, path) -> None:
    with_it = visitor.page(f"{crowd.url}/apps/shop{path}")
    without = visitor.page(f"{crowd.url}/apps/shop{path}", java_script_enabled=False)
    assert len(without.inner_text("main")) > 20
    assert _words(without) == _words(with_it)


def _words(page: Page) -> list[str]:
    """Of the page, but for what the machine measures of itself, which is another figure each time."""
    said = page.inner_text("main")
    system = page.locator("#system")
    return (said.replace(system.inner_text(), "") if system.count() else said).split()


def test_the_log_is_searched_without_javascript(crowd, visitor) -> None:
    page = visitor.page(f"{crowd.url}/apps/shop/log", java_script_enabled=False)
    page.get_by_label("Words").fill("First release")
    page.get_by_role("button", name="Find").click()
    kinds = page.locator("#events .tag").all_inner_texts()
    assert kinds
    assert set(kinds) == {"deployed"}


def test_all_of_it_is_reached_by_keyboard_and_one_sees_where_one_is(stage, serve, visitor) -> None:
    kept = stage("on trial")
    page = visitor.page(serve(kept, *kept.served).url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    expect(page.get_by_role("link", name="To the content")).to_be_in_viewport()

    wanted = page.evaluate(WANTED)
    reached, unseen = {wanted[0]}, []
    for _ in wanted:
        page.keyboard.press("Tab")
        what, line = page.evaluate(FOCUSED)
        reached.add(what)
        unseen += [what] if line == "none" and not what.startswith("<body") else []
    assert unseen == []
    assert set(wanted) - reached == set()

    page.get_by_role("link", name="Pause").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pause the loop").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#alerts")).to_contain_text("A person paused the loop", timeout=PATIENCE_MS)


def test_on_paper_there_is_all_that_counts_and_no_button(living, visitor) -> None:
    page = visitor.page(living.url, theme="dark")
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_role("link", name="Pause")).to_be_hidden()
    for question in QUESTIONS:
        expect(page.get_by_text(question).first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = page.evaluate(r"getComputedStyle(document.body).color.match(/\d+/g).slice(0, 3).map(Number)")
    assert max(ink) < 80, ink
    assert page.pdf()[:5] == b"%PDF-"


# ------------------------------------------------------------ how heavy it is


@pytest.mark.parametrize("path", ["/apps/shop", "/apps/shop/replays", "/apps/busy"])
def test_a_first_page_is_light(crowd, visitor, path) -> None:
    page, answers = visitor.page(), []
    page.on("response", lambda one: answers.append(one))  # noqa: PLW0108 - it wants a function of Python's
    page.goto(f"{crowd.url}{path}", wait_until="load")
    kinds = [(one.request.resource_type, one) for one in answers]
    got = [(kind, one.url, len(one.body())) for kind, one in kinds if kind != "eventsource"]
    script = sum(size for kind, _, size in got if kind == "script")
    whole = sum(size for *_, size in got)
    print(f"\n{path}: {whole:,} bytes in {len(got)} answers, {script:,} of them JavaScript")
    assert whole < FIRST_PAGE_BYTES, got
    assert 0 < script <= SCRIPT_BYTES
