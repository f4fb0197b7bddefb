"""The page: what drawing one costs at 10,000 releases and a year of events, what the browser gets, and what an idle one costs.

    python benchmarks/page.py

CPU of this process for each page, drawn as the page's process draws it: the first time, and the median of twenty afterwards.
Beside it the floor: what Python and SQLite take to read the newest 50 events of that ledger, and nothing else. Then a real
`staytrue up` with one page open and nothing happening: CPU of the page's process as a share of one core, over 20 s.

Targets: a page under 50 ms; the first one under 100 KB, at most 60 KB of it JavaScript; idle under 1 % of a core.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "scenario")]

import stores  # noqa: E402
from server import Server, serving, until  # noqa: E402

from staytrue.dashboard.site import respond  # noqa: E402
from staytrue.store.store import Store  # noqa: E402

TIMES, IDLE_S = 20, 20.0
PAGE_MS, FIRST_BYTES, SCRIPT_BYTES, IDLE = 50.0, 100_000, 60_000, 0.01
QUIET = 2.0
"""Per cent of a core."""
FLOOR = "select seq, body from event order by seq desc limit 50"


def cpu_ms(task: Callable[[], object]) -> float:
    began = time.process_time()
    task()
    return (time.process_time() - began) * 1000


def pages(store: Store) -> dict[str, str]:
    base = f"/apps/{stores.BUSY}"
    champion = store.champion(stores.BUSY)
    assert champion is not None
    return {
        "health": base,
        "releases": f"{base}/releases",
        "one release": f"{base}/releases/{champion.id}",
        "incidents": f"{base}/incidents",
        "log": f"{base}/log",
        "log, searched": f"{base}/log?q=rejected",
        "jobs": f"{base}/jobs",
        "data": f"{base}/data",
        "revert?": f"{base}/confirm/revert?to={champion.release.parents[0]}&code=1&data=1",
    }


def drawn(store: Store, address: str) -> bytes:
    path, _, query = address.partition("?")
    asked = dict(part.split("=") for part in query.split("&")) if query else {}
    live = {"csrf": "x", "may_operate": True, "signed_in": False}
    answer = respond(store, path, asked, now=datetime.now(UTC), live=live)
    assert answer.status == 200, answer.body[:300]
    return answer.body


def weight(store: Store) -> tuple[int, int]:
    """Bytes of the first page with all it loads, and those of its JavaScript."""
    body = drawn(store, f"/apps/{stores.BUSY}")
    loaded = {name: drawn(store, name) for name in set(re.findall(r'(?:src|href)="(/static/[^"]+)"', body.decode()))}
    script = sum(len(data) for name, data in loaded.items() if name.endswith(".js"))
    return len(body) + sum(map(len, loaded.values())), script


def idle(server: Server) -> float:
    """The share of a core that the page's process uses while one page listens."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as listening:
        listening.sendall(f"GET /events?app={stores.BUSY} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
        reading = threading.Thread(
            target=lambda: [None for _ in iter(lambda: listening.recv(1 << 16), b"")], daemon=True
        )
        reading.start()
        page = until(server.page, "a page's process")
        until(lambda: page.cpu_percent(interval=0.5) < QUIET, "an end of what it draws in advance when it starts")
        before = page.cpu_times()
        time.sleep(IDLE_S)  # the span that is measured
        after = page.cpu_times()
        listening.shutdown(socket.SHUT_RDWR)
        reading.join()
    return (after.user + after.system - before.user - before.system) / IDLE_S


def main() -> int:
    """Print the table; 2 when a target is missed."""
    well = True
    with tempfile.TemporaryDirectory() as place:
        kept = stores.lived(Path(place))  # an app that can be served, in the same store
        root = kept.store
        store = Store(root)
        stores.busy(store)
        events = len(store.ledger.events(stores.BUSY))
        with sqlite3.connect(root / "ledger.db") as bare:
            floor = median(cpu_ms(lambda: bare.execute(FLOOR).fetchall()) for _ in range(TIMES))
        print(f"{stores.MANY:,} releases, {events:,} events; the floor, 50 of them read: {floor:.2f} ms\n")
        print(f"{'page':<16}{'first ms':>10}{'ms':>8}{'x floor':>9}{'KB':>7}")
        for name, address in pages(store).items():
            first = cpu_ms(lambda address=address: drawn(store, address))
            each = median(cpu_ms(lambda address=address: drawn(store, address)) for _ in range(TIMES))
            well &= each < PAGE_MS
            size = len(drawn(store, address)) / 1000
            print(
                f"{name:<16}{first:>10.1f}{each:>8.1f}{each / floor:>9.0f}{size:>7.0f}{'' if each < PAGE_MS else '  MISSED'}"
            )
        whole, script = weight(store)
        light = whole < FIRST_BYTES and script <= SCRIPT_BYTES
        print(
            f"\nfirst page: {whole / 1000:.0f} KB, {script / 1000:.1f} KB of it JavaScript: {'met' if light else 'MISSED'}"
        )
        store.close()
        with serving(root, "--name", kept.app, "--no-loop") as server:
            share = idle(server)
        print(f"idle, one page open: {share:.2%} of a core: {'met' if share < IDLE else 'MISSED'}")
    print(f"(Python {sys.version.split()[0]}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f})")
    return 0 if well and light and share < IDLE else 2


if __name__ == "__main__":
    sys.exit(main())
