"""A controller that waits for another one's lease is alive, and says so."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime

from server import until

from staytrue.loop.lease import FileBeats, Tenancy


def test_one_that_waits_gives_signs_of_life_and_does_nothing(shop):
    shop.fetched()
    store = shop.store
    mine = Tenancy(store.ledger, "shop", "mine", FileBeats(store.root, "shop"))
    assert mine.hold("looks", datetime.now(UTC))
    command = [sys.executable, "-m", "staytrue.loop.process", "--store", str(shop.store_path), "--no-follow"]
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        waiting = subprocess.Popen(
            [*command, "--app-file", str(shop.folder / "app.py")],
            env=os.environ | {"STAYTRUE_LINE": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
        )
        heard = bytearray()

        def signs() -> bool:
            assert mine.hold("looks", datetime.now(UTC))
            with contextlib.suppress(BlockingIOError):  # none yet
                heard.extend(ours.recv(100))
            return heard.count(b"\n") > 3

        try:
            until(signs, "signs of life of the one that waits")
        finally:
            waiting.terminate()
            assert waiting.wait(timeout=30) == 0

    assert store.ledger.lease("shop").owner == "mine"
    assert shop.champion() is None
    store.close()
