"""A visitor with a real browser, who notes what no page may do: an error, a script of others, a word to another host."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request
from server import Server, until

PICTURES = Path(os.environ.get("BROWSER_DIR", Path(__file__).parents[2] / "build" / "browser"))
WIDTHS = {390: 844, 1280: 900, 1920: 1080}
"""Of a phone, a laptop and a large screen; and their heights."""
THEMES = ("light", "dark")

POLICY = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


class Visitor:
    """Opens pages, and notes what none of them may do."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.faults: list[str] = []
        self.may: list[str] = []
        """Parts of faults that a test brings about itself."""

    def context(self, *, width: int = 1280, theme: str = "light", **more: object) -> BrowserContext:
        """A profile of its own: no cookies, nothing cached."""
        made = self._browser.new_context(
            viewport={"width": width, "height": WIDTHS.get(width, 900)}, color_scheme=theme, locale="en-GB", **more
        )
        made.set_default_timeout(30_000)
        self._contexts.append(made)
        return made

    def page(self, url: str | None = None, *, context: BrowserContext | None = None, **more: object) -> Page:
        """A tab."""
        page = (context or self.context(**more)).new_page()
        hosts: set[str] = set()

        def requested(request: Request) -> None:
            host = urlsplit(request.url).netloc
            home = urlsplit(page.url if page.url.startswith("http") else url or "").netloc
            if host and home and host != home and host not in hosts:
                hosts.add(host)
                self.faults.append(f"asked {host}: {request.url}")

        def failed(request: Request) -> None:
            # A page that is left breaks off what it was listening to.
            if request.failure != "net::ERR_ABORTED":
                self.faults.append(f"{request.failure}: {request.url}")

        page.on("request", requested)

        def said(message: ConsoleMessage) -> None:
            # What was answered is noted with its address, below.
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
                self.faults.append(f"{message.type}: {message.text}")

        page.on("console", said)
        page.on("response", lambda got: got.status >= 400 and self.faults.append(f"{got.status}: {got.url}"))
        page.on("requestfailed", failed)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.add_init_script(POLICY)
        if url is not None:
            page.goto(url)
        return page

    def keep(self, name: str) -> None:
        """Pictures of what is open, for whoever asks why a test failed."""
        folder = PICTURES / "failed"
        folder.mkdir(parents=True, exist_ok=True)
        open_ones = [page for context in self._contexts for page in context.pages if not page.is_closed()]
        for number, page in enumerate(open_ones):
            page.screenshot(path=folder / f"{name}-{number}.png", full_page=True)

    def close(self) -> None:
        """Leave all pages."""
        for one in self._contexts:
            one.close()
        self._contexts.clear()

    def left(self) -> list[str]:
        """What is no test's own doing."""
        return [fault for fault in self.faults if not any(part in fault for part in self.may)]


def drawn(server: Server) -> None:
    """Once the page answers."""
    until(lambda: server.get("/", headers={"accept": "text/html"}).status in {200, 401}, "a first page")
