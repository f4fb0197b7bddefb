"""What the other tests look with does see: each kind of fault, brought about on a page of ours."""

from __future__ import annotations

import pytest
from server import until
from test_screens import LAYOUT, serious
from visit import Visitor


@pytest.fixture
def page(living, browser):
    """A page, and a visitor of whom nobody asks that nothing was seen."""
    visitor = Visitor(browser)
    page = visitor.page(living.url, width=390)
    page.visitor = visitor
    yield page
    visitor.close()


@pytest.mark.parametrize(
    ("done", "seen"),
    [
        ("console.error('it broke')", "it broke"),
        ("setTimeout(() => { throw new Error('thrown') })", "thrown"),
        ("const one = document.createElement('script'); one.text = 'taken = 1'; document.head.append(one)", "policy: script-src"),
        ("document.body.append(Object.assign(new Image(), { src: 'http://elsewhere.invalid/pixel' }))", "policy: img-src"),
        ("fetch('/nothing')", "404: "),
    ],
)  # fmt: skip
def test_a_fault_is_seen(page, done, seen) -> None:
    before = page.visitor.left()
    page.evaluate(f"() => {{ {done} }}")

    assert before == []
    until(lambda: page.title() and any(seen in fault for fault in page.visitor.left()), seen)


@pytest.mark.parametrize(
    ("style", "seen"),
    [
        ("h1 { min-width: 900px }", "the document is"),
        ("#now .card { width: 4rem; overflow: hidden; white-space: nowrap }", "cut: "),
        ("#q2 { position: relative; top: 1.6rem }", " lies over "),
    ],
)
def test_what_lies_wrong_is_seen(page, style, seen) -> None:
    before = page.evaluate(LAYOUT)
    page.evaluate(
        "(text) => { const sheet = new CSSStyleSheet(); sheet.replaceSync(text); document.adoptedStyleSheets = [sheet] }",
        style,
    )

    assert before == []
    assert any(seen in fault for fault in page.evaluate(LAYOUT))


def test_axe_sees_what_has_no_name(page) -> None:
    assert serious(page) == []
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert any("label" in fault for fault in serious(page))
