"""Chromium: which browser the tests and the pictures use, and how it is started.

In this order: what the environment variable CHROMIUM names; Playwright's own, where `playwright install chromium` has put one;
`chromium`, `chromium-browser` or `google-chrome` on PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

__all__ = ["HOW_TO_GET_ONE", "NoBrowser", "chromium", "executable"]

HOW_TO_GET_ONE = (
    "No Chromium was found. On Debian: apt install chromium. Elsewhere: .venv/bin/playwright install chromium. "
    "Or say where one is: CHROMIUM=/path/to/chrome."
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NoBrowser(Exception):
    """None is there; its text says how to get one."""


def executable(playwright: Playwright) -> str:
    """The browser to start.

    Raises:
        NoBrowser: none is there, or not where CHROMIUM says.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise NoBrowser(f"CHROMIUM names {named}, and nothing to run is there.")
        return found
    own = playwright.chromium.executable_path
    if own and Path(own).exists():
        return own
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise NoBrowser(HOW_TO_GET_ONE)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser without a window; ended afterwards.

    Raises:
        NoBrowser: none is there.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox wants a user who is not root, and containers are run as root.
        sandbox = getattr(os, "geteuid", lambda: 1)() != 0
        browser = playwright.chromium.launch(executable_path=executable(playwright), chromium_sandbox=sandbox)
        try:
            yield browser
        finally:
            browser.close()
