"""Garbage collection that loses nothing: what no ledger row leads to is condemned after a grace, deleted after another.

    mark -> condemn (to the trash; writers see it as absent and write anew) -> grace -> mark again -> delete

What is referred to stays, and so does what is younger than the grace: it may be on its way into a transaction. An
object that is put again counts as new. As long as something referred to is missing or damaged nothing is freed at all,
because what it refers to can't be known.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.store.objects import manifest

if TYPE_CHECKING:
    from staytrue.kernel.release import Digest
    from staytrue.store.ledger import Ledger, StoredRef
    from staytrue.store.objects import LocalObjects, Stored

__all__ = ["Reach", "Report", "collect", "reach"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a collection did, or in a dry run would do.

    `why`: for every object that stays, the reason, in a dry run only. `blocked`: the reasons why nothing was freed.
    """

    kept: int
    condemned: tuple[Digest, ...]
    restored: tuple[Digest, ...]
    deleted: tuple[Digest, ...]
    freed_bytes: int
    why: dict[Digest, str]
    blocked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """All that the ledger leads to.

    `roots`: the ledger's references by digest. `found`: every object reached and there, with one reference that leads
    to it. `intact`: those read on the way and equal to their digest. `missing`, `damaged`: reached, but not to be read.
    `parents`: which documents name an object.
    """

    roots: dict[Digest, list[StoredRef]]
    found: dict[Digest, StoredRef]
    intact: set[Digest]
    missing: set[Digest]
    damaged: set[Digest]
    parents: dict[Digest, set[Digest]]


@dataclass(kw_only=True)
class _Plan:
    """What happens to each object, as it is decided."""

    dry_run: bool
    kept: int = 0
    condemned: list[Digest] = field(default_factory=list)
    restored: list[Digest] = field(default_factory=list)
    deleted: list[Digest] = field(default_factory=list)
    freed_bytes: int = 0
    why: dict[Digest, str] = field(default_factory=dict)

    def keep(self, name: Digest, reason: str) -> None:
        self.kept += 1
        if self.dry_run:
            self.why[name] = reason


def collect(
    objects: LocalObjects,
    ledger: Ledger,
    *,
    now: datetime,
    grace: timedelta = timedelta(hours=24),
    dry_run: bool = False,
) -> Report:
    """Frees what nothing refers to. Safe beside any number of writers, as long as a write commits within the grace.

    Args:
        now: the time of the machine that holds the objects; their ages count from it.
        grace: how long an object may wait for its transaction, and how long it then stays in the trash.
        dry_run: change nothing, say what would happen and why.

    Raises:
        InvalidInput: ST421, a negative grace or a naive time.    Unavailable: as `LocalObjects` and `Ledger`.
    """
    if now.tzinfo is None or grace < timedelta(0):
        message = (
            f"Can't collect garbage with now={now} and grace={grace}: an aware datetime and at least 0 are needed."
        )
        raise InvalidInput("ST421", message, now=str(now), grace_s=grace.total_seconds())
    before = now.astimezone(UTC) - grace
    plan = _Plan(dry_run=dry_run)
    known = reach(objects, ledger)
    blocked = _blocked(known)
    for stored in objects.list():
        _condemn_or_keep(objects, plan, stored, known, before=before, blocked=bool(blocked))
    # Marked again: a transaction may have been committed since the first look, or since these were condemned.
    known = reach(objects, ledger)
    blocked = blocked or _blocked(known)
    for stored in objects.trashed():
        _delete_or_restore(objects, plan, stored, known, before=before, blocked=bool(blocked))
    plan.freed_bytes += objects.sweep(before=before, dry_run=dry_run)
    return Report(
        kept=plan.kept,
        condemned=tuple(name for name in plan.condemned if name not in plan.restored),
        restored=tuple(plan.restored),
        deleted=tuple(plan.deleted),
        freed_bytes=plan.freed_bytes,
        why=plan.why,
        blocked=blocked,
    )


def reach(objects: LocalObjects, ledger: Ledger) -> Reach:
    """Walks from every reference in the ledger through the documents that it leads to. Changes nothing."""
    roots: dict[Digest, list[StoredRef]] = defaultdict(list)
    for ref in ledger.refs():
        roots[ref.digest].append(ref)
    result = Reach(roots=roots, found={}, intact=set(), missing=set(), damaged=set(), parents=defaultdict(set))
    # `sure`: named by the ledger or by a document that is ours. A user's JSON file may hold a hash that is no object.
    waiting = [(name, refs[0], True) for name, refs in roots.items()]
    while waiting:
        name, ref, sure = waiting.pop()
        if name in result.found or name in result.missing or name in result.damaged:
            continue
        try:
            data = objects.peek(name)
        except NotFound:
            if sure:
                result.missing.add(name)
            continue
        except Corrupt:
            result.damaged.add(name)
            continue
        result.found[name] = ref
        if data is None:
            continue
        result.intact.add(name)
        document = manifest(data)
        if document is not None:
            for child in document.references:
                result.parents[child].add(name)
                waiting.append((child, ref, document.canonical))
    return result


def _condemn_or_keep(
    objects: LocalObjects, plan: _Plan, stored: Stored, known: Reach, *, before: datetime, blocked: bool
) -> None:
    name = stored.digest
    if name in known.found:
        plan.keep(name, _reason(known.found[name]))
    elif name in known.damaged:
        plan.keep(name, "it is damaged and referred to")
    elif stored.changed_at > before:
        plan.keep(name, f"it was put at {stored.changed_at:%Y-%m-%d %H:%M:%S} UTC, within the grace")
    elif blocked:
        plan.keep(name, "something that is referred to is missing or damaged")
    elif plan.dry_run or objects.delete(name, unless_put_since=before):
        plan.condemned.append(name)
    else:
        plan.keep(name, "it was put again at this moment")


def _delete_or_restore(
    objects: LocalObjects, plan: _Plan, stored: Stored, known: Reach, *, before: datetime, blocked: bool
) -> None:
    name = stored.digest
    if (name in known.found or name in known.damaged) and not objects.has(name):
        if plan.dry_run or objects.restore(name):
            plan.restored.append(name)
            plan.keep(name, _reason(known.found[name]) if name in known.found else "it is damaged and referred to")
    elif stored.changed_at > before:
        if name not in plan.condemned:
            plan.keep(name, f"condemned at {stored.changed_at:%Y-%m-%d %H:%M:%S} UTC, within the grace")
    elif blocked:
        plan.keep(name, "something that is referred to is missing or damaged")
    else:
        if not plan.dry_run:
            objects.destroy(name)
        plan.deleted.append(name)
        plan.freed_bytes += stored.size_bytes


def _blocked(known: Reach) -> tuple[str, ...]:
    missing = [f"object {name[:12]} is referred to and missing" for name in sorted(known.missing)]
    damaged = [f"object {name[:12]} is referred to and damaged" for name in sorted(known.damaged)]
    return tuple(missing + damaged)


def _reason(ref: StoredRef) -> str:
    timeline = "" if ref.timeline == "live" else f" ({ref.timeline})"
    return f"{ref.kind} {ref.name[:12]} of {ref.app}{timeline} refers to it"
