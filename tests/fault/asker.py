"""Asks one request again and again, in a process of its own, and prints each status and how long it took.

python asker.py PORT FILE_WITH_THE_REQUEST          until its stdin ends
"""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

from load import ask


def main() -> None:
    port, request = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic()
        reply = ask(port, request, timeout_s=60)
        print(reply.status, time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
