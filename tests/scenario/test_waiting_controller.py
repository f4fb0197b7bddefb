"""A controller that waits for another one's lease is alive, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

from server import until

from staytrue.engines.keeper import file_sign
from staytrue.loop.lease import FileBeats, Tenancy


def test_one_that_waits_gives_signs_of_life_and_does_nothing(shop):
    shop.fetched()
    store = shop.store
    mine = Tenancy(store.ledger, "shop", "mine", FileBeats(store.root, "shop"))
    assert mine.hold("looks", datetime.now(UTC))
    command = [sys.executable, "-m", "staytrue.loop.process", "--store", str(shop.store_path), "--no-follow"]
    waiting = subprocess.Popen([*command, "--app-file", str(shop.folder / "app.py")], env=os.environ)
    sign = file_sign(store.root / "work" / "loop")

    def signs() -> set[object]:
        assert mine.hold("looks", datetime.now(UTC))
        seen.add(sign(waiting.pid))
        return seen if len(seen) > 3 else set()

    seen: set[object] = set()
    try:
        until(signs, "signs of life of the one that waits")
    finally:
        waiting.terminate()
        assert waiting.wait(timeout=30) == 0

    assert store.ledger.lease("shop").owner == "mine"
    assert shop.champion() is None
    store.close()
