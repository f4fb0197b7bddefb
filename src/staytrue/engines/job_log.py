"""Job log: which jobs run and what the last ones printed, as files beside the pools, for whoever looks on.

A job that runs is a directory of its pool, in which `about.json` says what it is; of one that ended a small document and the end
of its output stay in `ended/`, the newest only. All of it may be deleted at any time, and a disk that refuses it stops no job.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from staytrue.engines.file_lock import try_lock
from staytrue.engines.job import Job, Outcome
from staytrue.kernel.output import readable

__all__ = ["begin", "break_off", "end", "ended", "find", "mark", "running", "tail"]

KEPT: Final = 200
"""Jobs that are remembered after their end."""
_TAIL_BYTES: Final = 32 << 10
_SILENT_S: Final = 1.0
_ID: Final = re.compile(r"(?:[0-9a-f]{16}-)?[0-9a-f]{16}")

Document = dict[str, Any]


def begin(place: Path, job: Job) -> None:
    """Note beside a job that is handed out what it is."""
    about = {
        "id": place.name,
        "kind": job.key.partition(":")[0],
        "key": job.key[:300],
        "app": job.app,
        "purpose": job.purpose[:200],
        "began_at": datetime.now(UTC).isoformat(),
        "timeout_s": job.timeout_s,
    }
    with contextlib.suppress(OSError):  # see the module
        (place / "about.json").write_text(json.dumps(about))


def end(place: Path, outcome: Outcome) -> None:
    """Remember how a job ended. One that went well, said nothing and took no second is forgotten: a replay has thousands."""
    about = _about(place)
    with contextlib.suppress(OSError):
        (place / "about.json").unlink(missing_ok=True)
    if about is None or (outcome.status == "done" and outcome.seconds < _SILENT_S and not outcome.log.strip()):
        return
    error = outcome.error or {}
    said = error.get("message")
    _keep(
        place.parents[1],
        about,
        {
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
            "cpu_seconds": outcome.cpu_seconds,
            "peak_memory_bytes": outcome.peak_memory_bytes,
            "code": error.get("code"),
            "said": readable(str(said), lines=20) if said else None,
            "traceback": readable(str(error.get("traceback") or ""), lines=40) or None,
        },
        outcome.log,
    )


def break_off(pool: Path) -> None:
    """Remember the jobs of a pool whose process is gone, before its directory is swept away."""
    told = {"status": "lost", "seconds": None, "said": "The process that wanted it is gone, and it with that."}
    for file in pool.glob("*/about.json"):
        about = _about(file.parent)
        if about is not None:
            _keep(pool.parent, about, told, tail(file.with_name("log")))


def running(root: Path) -> list[Document]:
    """The jobs of all pools below `root` whose processes live, oldest first, each with the end of its output."""
    found = []
    for place in _places(root):
        about = _about(place)
        if about is not None:
            output = readable(tail(place / "log"))
            found.append({**about, "status": "running", "progress": _progress(place), "output": output})
    return sorted(found, key=lambda one: str(one["began_at"]))


def ended(root: Path) -> list[Document]:
    """Those that ended, the newest first, without their output."""
    return [found for file in reversed(_records(root)) if (found := _read(file)) is not None]


def find(root: Path, id_: str) -> Document | None:
    """The job of that id with its output: one that runs, or one that ended and is remembered."""
    if not _ID.fullmatch(id_):
        return None
    for one in running(root):
        if one["id"] == id_:
            return one
    for file in _records(root):
        if file.stem.endswith(id_) and (found := _read(file)) is not None:
            return {**found, "output": _text(file.with_suffix(".log"))}
    return None


def mark(root: Path) -> tuple[Any, ...]:
    """What moves when a job begins, ends, prints or tells how far it is."""
    seen = []
    for place in _places(root):
        for name in ("log", "progress.json"):
            with contextlib.suppress(OSError):
                stat = (place / name).stat()
                seen.append((place.name, name, stat.st_size, stat.st_mtime_ns))
        seen.append((place.name, "", 0, 0))
    records = _records(root)
    return (*sorted(seen), records[-1].name if records else "")


# ------------------------------------------------------------ files


def _places(root: Path) -> Iterator[Path]:
    """The directory of every job of a pool that lives. A pool that was killed has it swept away by the next one."""
    for lock in root.glob("pool-*.lock"):
        with contextlib.suppress(OSError):
            places = [place for place in lock.with_suffix("").iterdir() if _ID.fullmatch(place.name)]
            if places and _is_held(lock):
                yield from places


def _is_held(lock: Path) -> bool:
    """Whether the process of this pool lives: it holds the lock on its file."""
    fd = os.open(lock, os.O_RDWR)
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def _about(place: Path) -> Document | None:
    """What a job is; None where nothing says it. The job may write there what it likes, but not another id."""
    found = _read(place / "about.json")
    try:
        texts = (
            {name: readable(str(found[name]), lines=1) for name in ("kind", "key", "app", "purpose")} if found else {}
        )
        began = datetime.fromisoformat(found["began_at"]).isoformat() if found else ""
        return found and {"id": place.name, **texts, "began_at": began, "timeout_s": float(found["timeout_s"])}
    except (KeyError, TypeError, ValueError):
        return None


def _progress(place: Path) -> Document | None:
    told = _read(place / "progress.json")
    try:
        return told and {
            "done": float(told["done"]),
            "total": float(told["total"]),
            "doing": readable(str(told["doing"]), lines=1),
        }
    except (KeyError, TypeError, ValueError):  # the job writes what it likes there
        return None


def _keep(root: Path, about: Document, told: Mapping[str, Any], output: str) -> None:
    folder, now = root / "ended", datetime.now(UTC)
    name = f"{int(now.timestamp() * 1000):016x}-{about['id']}"
    with contextlib.suppress(OSError):  # see the module
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / f"{name}.log").write_text(readable(output[-_TAIL_BYTES:]), encoding="utf-8", errors="replace")
        record = {"cpu_seconds": None, "peak_memory_bytes": None, "code": None, "traceback": None}
        temporary = folder / f"{name}.tmp"
        temporary.write_text(json.dumps({**about, **record, **told, "ended_at": now.isoformat()}))
        temporary.replace(folder / f"{name}.json")
        for old in _records(root)[:-KEPT]:
            old.unlink(missing_ok=True)
            old.with_suffix(".log").unlink(missing_ok=True)


def _records(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted((root / "ended").glob("*.json"))
    return []


def _read(file: Path) -> Document | None:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


def tail(log: Path, most_bytes: int = _TAIL_BYTES) -> str:
    """The end of what was printed; empty where there is no such file."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, os.fstat(source.fileno()).st_size - most_bytes))
            return source.read(most_bytes).decode("utf-8", "replace")
    except OSError:
        return ""
