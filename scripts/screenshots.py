"""Makes the pictures of the page that README and docs show, from a real store that a real server serves.

    python scripts/screenshots.py                     from a demo of its own, which takes minutes
    python scripts/screenshots.py --dir DIR           from the demo that was made in DIR

Each is a PNG of 256 colours under docs/img. One that would be larger than 150 KB ends this with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromium
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 150_000
PATIENCE_S = 60.0
WIDTH, HEIGHT, EDGE = 1280, 860, 20


def main() -> None:
    """Make them, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="where `staytrue demo` has been")
    parser.add_argument("--out", default=str(ROOT / "docs" / "img"), help="the folder of the pictures")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium.chromium())
        except chromium.NoBrowser as exc:
            sys.exit(str(exc))
        place = Path(args.dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="staytrue-screenshots-")))
        store = place / ".staytrue"
        if not store.exists():
            subprocess.run([sys.executable, "-m", "staytrue", "demo", "--headless", "--dir", str(place)], check=True)
        url = stack.enter_context(served(store))
        for name, path, last, theme in views(url):
            size = write(out / f"{name}.png", picture(browser, url + path, last, theme))
            sys.stderr.write(f"{name}.png: {size / 1000:.0f} KB\n")
            if size > MOST_BYTES:
                sys.exit(f"{name}.png has {size:,} bytes: expected at most {MOST_BYTES:,}. Show less of the page.")


def views(url: str) -> list[tuple[str, str, str, str]]:
    """Of each picture its name, the page's path, the element that it ends with, and the theme."""
    app = ask(url, "/api")["app"]
    champion = ask(url, f"/api/apps/{app}")["status"]["champion"]["release"]
    base = f"/apps/{app}"
    return [
        ("health", base, "#loss", "light"),
        ("health-dark", base, "#loss", "dark"),
        ("release", f"{base}/releases/{champion}", "#lineage", "light"),
        ("replays", f"{base}/replays", "#replays", "light"),
    ]


def picture(browser: Browser, url: str, last: str, theme: str) -> bytes:
    """A page down to the end of an element, as wide as a laptop shows it."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
        locale="en-GB",
    )
    try:
        page = context.new_page()
        page.goto(url)
        bottom = page.locator(last).evaluate("(element) => element.getBoundingClientRect().bottom + scrollY")
        return page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": bottom + EDGE})
    finally:
        context.close()


def write(file: Path, png: bytes) -> int:
    """Keep it with as few bytes as 256 colours need; how many these are."""
    few = Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    return file.stat().st_size


@contextlib.contextmanager
def served(store: Path) -> Iterator[str]:
    """`staytrue up` at the time where the demo's clock stands, once its loop has looked at itself; ended afterwards."""
    command = [sys.executable, "-m", "staytrue", "up", "--store", str(store), "--app", str(store.parent / "app.py")]
    command += ["--clock", str(store / "demo.clock"), "--no-follow", "--port", "0", "--json"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said)
        try:
            yield wait(process, said)
        finally:
            process.terminate()
            process.wait()


def wait(process: subprocess.Popen[bytes], said: Any) -> str:
    """Where the page is, once a controller lives and the server knows how it is."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        said.seek(0)
        with contextlib.suppress(ValueError, urllib.error.URLError):
            url = str(json.loads(said.read())["url"])
            health = ask(url, "/api")
            if health["controller"] == "alive" and health["server"]:
                return url
        time.sleep(0.2)
    sys.exit("staytrue up did not come alive; its words are above.")


def ask(url: str, path: str) -> Mapping[str, Any]:
    """A document of the page."""
    with urllib.request.urlopen(url + path, timeout=30) as answer:  # noqa: S310 - a server of our own
        document: Mapping[str, Any] = json.load(answer)
    return document


if __name__ == "__main__":
    main()
