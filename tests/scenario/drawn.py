"""A site that draws next to nothing, and misbehaves where it is asked to: for the stories about what stands before a page.

As a program it is `staytrue` with this site in place of the real one.
"""

from __future__ import annotations

import html
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from staytrue.errors import NotFound

SCRIPT = "/static/drawn.0123abcd.js"
LARGE = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    content_type: str


def respond(store, path, query, *, now, live=None):
    if path == SCRIPT:
        return Answer(status=200, body=b"// drawn", content_type="text/javascript")
    if path == "/static/plain.css":
        return Answer(status=200, body=b"p {}", content_type="text/css")
    if path.startswith("/api/"):
        document = {"apps": store.apps(), "path": path, "query": query, "live": live, "pid": os.getpid()}
        return Answer(status=200, body=json.dumps(document).encode(), content_type="application/json")
    _misbehave(path)
    if path == "/apps/shop/large":
        return Answer(status=200, body=b"x" * LARGE, content_type="text/plain")
    if path not in {"/", "/apps/shop"}:
        return Answer(status=404, body=b"<h1>Nothing</h1>", content_type="text/html; charset=utf-8")
    asked = (live or {}).get("asked")
    told = html.escape(asked["sentence"]) if asked else ""
    body = f"<!doctype html><title>drawn</title><main id=overview><h1>shop</h1><p id=asked>{told}</p></main>"
    return Answer(status=200, body=body.encode(), content_type="text/html; charset=utf-8")


def _misbehave(path):
    if path == "/apps/shop/slow":
        time.sleep(1.0)
    if path == "/apps/shop/broken":
        raise ValueError("secret at /srv/place")
    if path == "/apps/shop/gone":
        raise NotFound("ST473", "No release at '/srv/place'.")
    if path == "/apps/shop/dies":
        os._exit(9)


def fragments(path):
    return ("overview", path)


def slow_paths(store):
    return ()


if __name__ == "__main__":
    from staytrue.cli import main, up

    up._SITE = "drawn"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.exit(main(sys.argv[1:]))
