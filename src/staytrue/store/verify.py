"""Verify: every object against its digest, every reference against an object, the chain link by link, the log of traffic.

It reads and changes nothing. What is wrong comes with the releases that it touches, so that a person knows what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from staytrue.store.gc import reach
from staytrue.store.segment import damaged_segments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from staytrue.kernel.release import Digest
    from staytrue.store.gc import Reach
    from staytrue.store.ledger import Ledger
    from staytrue.store.objects import LocalObjects

__all__ = ["Problem", "Report", "verify"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that does not hold. `digest` is None but for objects; `releases`: those that need the object, sorted."""

    kind: Literal["damaged", "missing", "ledger", "traffic"]
    digest: Digest | None
    sentence: str
    releases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at, and what is wrong with it: nothing, when `problems` is empty."""

    problems: list[Problem]
    objects: int
    bytes: int


def verify(objects: LocalObjects, ledger: Ledger, progress: Callable[[int, int], None] | None = None) -> Report:
    """Checks the whole store; the time is that of reading and hashing every byte once.

    Args:
        progress: called after each object with the objects and the bytes done so far.

    Raises:
        Unavailable: the disk or the database does not answer.    Corrupt: ST412, the ledger can't even be read.
    """
    known = reach(objects, ledger)
    damaged, missing = set(known.damaged), set(known.missing)
    count = size_bytes = 0
    for stored in objects.list():
        # Objects put or moved to the trash while we walk are no problem: only one that is there and differs is.
        whole = stored.digest in known.intact or objects.intact(stored.digest)
        if not whole and objects.has(stored.digest):
            damaged.add(stored.digest)
        count, size_bytes = count + 1, size_bytes + stored.size_bytes
        if progress is not None:
            progress(count, size_bytes)
    problems = [Problem(kind="ledger", digest=None, sentence=said, releases=()) for said in ledger.verify()]
    problems += [
        Problem(kind="traffic", digest=None, sentence=_of_segment(path, places), releases=())
        for path, places in damaged_segments(objects.root)
    ]
    problems += [_problem("missing", name, known) for name in sorted(missing)]
    problems += [_problem("damaged", name, known) for name in sorted(damaged)]
    return Report(problems=problems, objects=count, bytes=size_bytes)


def _of_segment(path: Path, places: tuple[int, ...]) -> str:
    return (
        f"Segment {path.name} changed on disk: {len(places)} places hold no record of traffic, the first at byte "
        f"{places[0]:,}. What is whole around them is still read; the file is kept and never compacted."
    )


def _problem(kind: Literal["damaged", "missing"], name: Digest, known: Reach) -> Problem:
    refs = [ref for ancestor in _ancestors(name, known) for ref in known.roots.get(ancestor, ())]
    releases = tuple(sorted({ref.name for ref in refs if ref.kind == "release"}))
    what = "changed on disk: its bytes no longer match its digest" if kind == "damaged" else "is missing"
    if releases:
        who = f"Affected: release {', '.join(release[:12] for release in releases)}."
    elif refs:
        who = f"Affected: {', '.join(sorted({f'{ref.kind} {ref.name[:12]}' for ref in refs}))}."
    else:
        who = "Nothing refers to it: `staytrue gc` will remove it."
    return Problem(kind=kind, digest=name, sentence=f"Object {name[:12]} {what}. {who}", releases=releases)


def _ancestors(name: Digest, known: Reach) -> set[Digest]:
    """The object itself and every document that leads to it."""
    found, waiting = set(), [name]
    while waiting:
        item = waiting.pop()
        if item not in found:
            found.add(item)
            waiting += known.parents.get(item, ())
    return found
