"""Sender: a process that hands one message to one service, by apprise. `loop/notify.py` starts it.

A process of its own, because apprise (an extra) waits for other machines, and takes 0.3 s of CPU and 20 MB to begin with. On
stdin it gets `{"url": ..., "title": ..., "body": ..., "type": ...}`. It says nothing on any stream, since libraries quote URLs,
and URLs hold passwords: the exit code is all that leaves it.
"""

from __future__ import annotations

import importlib
import json
import sys

__all__ = ["EXITS", "send"]

EXITS = {
    0: "sent",
    3: "apprise is not installed: pip install 'staytrue[notify]'",
    4: "apprise does not understand the URL",
    5: "the service did not take it",
    6: "apprise failed on it",
}
"""exit code -> what it means"""


def send(document: dict[str, str]) -> int:
    """The exit code: see `EXITS`."""
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        return 3
    try:
        service = apprise.Apprise()
        if not service.add(document["url"]):
            return 4
        told = service.notify(title=document["title"], body=document["body"], notify_type=document["type"])
    except Exception:  # noqa: BLE001 - whatever a plugin raises may quote its URL; the code tells that it failed
        return 6
    return 0 if told else 5


if __name__ == "__main__":
    sys.exit(send(json.loads(sys.stdin.buffer.read())))
