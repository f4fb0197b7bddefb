"""Each page on each screen, light and dark: nothing is cut, nothing lies over something else, axe finds nothing serious."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from stores import BARE, BUSY, EVIL
from visit import PICTURES, THEMES, WIDTHS

from staytrue.store.store import Store

LAYOUT = (Path(__file__).parent / "layout.js").read_text()
SERIOUS = {"serious", "critical"}


def part(text):
    return quote(text, safe="")


SHOP, EVIL_AT = "/apps/shop", f"/apps/{part(EVIL)}"
PAGES = {
    "apps": "/",
    "health": SHOP,
    "releases": f"{SHOP}/releases",
    "data": f"{SHOP}/data",
    "source": f"{SHOP}/data/sales",
    "incidents": f"{SHOP}/incidents",
    "replays": f"{SHOP}/replays?price=2",
    "log": f"{SHOP}/log",
    "log-found": f"{SHOP}/log?q=nothing+is+called+so",
    "jobs": f"{SHOP}/jobs",
    "confirm": f"{SHOP}/confirm/pause",
    "not-found": f"{SHOP}/nothing",
    "bare-health": f"/apps/{BARE}",
    "bare-data": f"/apps/{BARE}/data",
    "bare-replays": f"/apps/{BARE}/replays",
    "bare-jobs": f"/apps/{BARE}/jobs",
    "busy-health": f"/apps/{BUSY}",
    "busy-releases": f"/apps/{BUSY}/releases?page=7",
    "busy-log": f"/apps/{BUSY}/log?kind=rejected",
    "evil-health": EVIL_AT,
    "evil-releases": f"{EVIL_AT}/releases",
    "evil-data": f"{EVIL_AT}/data",
    "evil-incidents": f"{EVIL_AT}/incidents",
    "evil-log": f"{EVIL_AT}/log",
    "sign-in": "/sign-in",
}
MORE = (
    "release", "card", "revert", "busy-release", "evil-release", "evil-card", "evil-incident", "evil-source",
    "live-health", "live-challenger", "live-incidents", "live-incident", "live-source", "live-promote", "live-release",
)  # fmt: skip
"""Pages whose addresses are found on others, and those of an app with a trial, an incident and a window in quarantine."""


@pytest.fixture(scope="session")
def addresses(crowd, living):
    """Every page's address."""
    store = Store(crowd.store_path)
    champion = {app: store.champion(app).id for app in ("shop", BUSY, EVIL)}
    store.close()
    earlier = crowd.get(f"/api/apps/{BUSY}/releases").json["releases"][-1]["id"]
    source = crowd.get(f"/api{EVIL_AT}/data").json["sources"][0]["source"]
    evil = crowd.get(f"/api{EVIL_AT}/incidents").json["incidents"][0]["number"]
    number = living.get(f"/api{SHOP}/incidents").json["incidents"][0]["number"]
    challenger = living.get(f"/api{SHOP}").json["status"]["next"]["trial"]["release"]
    held = living.get(f"/api{SHOP}/data/sales").json["quarantine"][0]["id"]
    found = {
        "release": f"{SHOP}/releases/{champion['shop']}",
        "card": f"{SHOP}/releases/{champion['shop']}/card",
        "revert": f"/apps/{BUSY}/confirm/revert?to={earlier}&code=1&data=1",
        "busy-release": f"/apps/{BUSY}/releases/{champion[BUSY]}",
        "evil-release": f"{EVIL_AT}/releases/{champion[EVIL]}",
        "evil-card": f"{EVIL_AT}/releases/{champion[EVIL]}/card",
        "evil-incident": f"{EVIL_AT}/incidents/{evil}",
        "evil-source": f"{EVIL_AT}/data/{part(source)}",
    }
    alive = {
        "live-health": "/",
        "live-challenger": f"{SHOP}/releases/{challenger}",
        "live-incidents": f"{SHOP}/incidents",
        "live-incident": f"{SHOP}/incidents/{number}",
        "live-source": f"{SHOP}/data/sales",
        "live-promote": f"{SHOP}/confirm/promote?release={challenger}",
        "live-release": f"{SHOP}/confirm/release?source=sales&held={held}",
    }
    assert {*found, *alive} == set(MORE)
    urls = {name: crowd.url + path for name, path in (PAGES | found).items()}
    return urls | {name: living.url + path for name, path in alive.items()}


def serious(page):
    """What axe finds that keeps people out."""
    violations = Axe().run(page).response["violations"]
    return [
        f"axe, {one['id']}: {node['html'][:200]}"
        for one in violations
        if one["impact"] in SERIOUS
        for node in one["nodes"][:3]
    ]


def looked_at(visitor, url, name):
    """What is wrong with a page, on every screen; a picture of each is kept."""
    found = []
    page = visitor.page(url, width=max(WIDTHS))
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            folder = PICTURES / f"{width}-{theme}"
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name}.png", full_page=True)
        found += [f"{name} at {width}: {fault}" for fault in page.evaluate(LAYOUT)]
        # Themes differ in colours only, and the two large screens in where things are: axe looks at what differs for it.
        for theme in {390: ["dark"], 1280: THEMES}.get(width, []):
            page.emulate_media(color_scheme=theme)
            found += [f"{name}, {theme}: {fault}" for fault in serious(page)]
    page.context.close()
    return found


@pytest.mark.parametrize("name", [*PAGES, *MORE])
def test_a_page_is_whole_on_every_screen_and_axe_finds_nothing_serious(name, addresses, visitor):
    if name == "not-found":
        visitor.may.append("404")
    assert looked_at(visitor, addresses[name], name) == []
