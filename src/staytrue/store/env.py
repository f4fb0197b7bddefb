"""Env: the interpreter and the installed distributions with their versions, as one document.

The platform is told apart and is not hashed: a Mac and a Linux machine with the same versions have the same env, so they
agree on recipes, and a model trained on one is found on the other.

Limit: a distribution is known by name and version. An editable or a local one that changes under one version looks
unchanged here; the app's own files don't, since they are in `store/code.py`.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from staytrue.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from staytrue.kernel.release import Digest
    from staytrue.store.objects import LocalObjects

__all__ = ["EnvDiff", "env_diff", "env_id", "environment", "platform_note"]


@dataclass(frozen=True, kw_only=True)
class EnvDiff:
    """What differs from one env to another: name -> version, or name -> (old, new); `python` when the interpreters differ."""

    python: tuple[str, str] | None
    added: Mapping[str, str]
    removed: Mapping[str, str]
    changed: Mapping[str, tuple[str, str]]

    def sentences(self) -> tuple[str, ...]:
        """One line for each difference, the interpreter first, then by name.

        Example:
            >>> EnvDiff(python=None, added={"rich": "15.0"}, removed={}, changed={"numpy": ("1.26", "2.4")}).sentences()
            ('numpy 1.26 -> 2.4', 'rich absent -> 15.0')
        """
        pairs = {name: ("absent", version) for name, version in self.added.items()}
        pairs |= {name: (version, "absent") for name, version in self.removed.items()}
        pairs |= self.changed
        lines = [f"{name} {old} -> {new}" for name, (old, new) in sorted(pairs.items())]
        return (*([] if self.python is None else [f"{self.python[0]} -> {self.python[1]}"]), *lines)


def environment(include: Collection[str] | None = None) -> dict[str, Any]:
    """The env of this process as a document: kind, python, implementation and distributions, sorted by name.

    Of several installations of one name the one that imports find counts; one whose metadata is damaged is left out.

    Args:
        include: names of distributions to keep, in any spelling; None keeps all.

    Example:
        >>> env = environment(include=["NumPy"])
        >>> env["kind"], [name for name, version in env["distributions"]]
        ('env', ['numpy'])
    """
    wanted = None if include is None else {_normalised(name) for name in include}
    versions: dict[str, str] = {}
    # In the order of sys.path, as imports look: so the first of a name is the one that counts.
    for name, version in map(_name_and_version, metadata.distributions()):
        if name is not None and (wanted is None or name in wanted):
            versions.setdefault(name, version)
    return {
        "kind": "env",
        "python": platform.python_version(),
        "implementation": platform.python_implementation().lower(),
        "distributions": [[name, versions[name]] for name in sorted(versions)],
    }


def env_id(objects: LocalObjects, include: Collection[str] | None = None) -> Digest:
    """The id of this process's env, kept as an object; arguments as for `environment`.

    Raises:
        Unavailable: as `LocalObjects.put_document`.
    """
    return objects.put_document(environment(include))


def env_diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> EnvDiff:
    """What differs from env document `a` to `b`.

    Raises:
        Corrupt: ST455, one of them is no env document.

    Example:
        >>> env = {"kind": "env", "python": "3.11.7", "implementation": "cpython", "distributions": [["numpy", "1.26"]]}
        >>> env_diff(env, {**env, "distributions": [["numpy", "2.4"]]}).changed
        {'numpy': ('1.26', '2.4')}
    """
    (old_python, old), (new_python, new) = _read(a), _read(b)
    return EnvDiff(
        python=None if old_python == new_python else (old_python, new_python),
        added={name: new[name] for name in sorted(new.keys() - old.keys())},
        removed={name: old[name] for name in sorted(old.keys() - new.keys())},
        changed={name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
    )


def platform_note() -> dict[str, str]:
    """What machine this is, for people to read: it is in no id.

    Example:
        >>> sorted(platform_note())
        ['machine', 'release', 'system']
    """
    return {"system": platform.system(), "release": platform.release(), "machine": platform.machine()}


def _name_and_version(distribution: metadata.Distribution) -> tuple[str | None, str]:
    # Not `.name` and `.version`: each of them parses the whole file again, and raises in its own way when it is damaged.
    try:
        found = distribution.metadata
        # `get` is no part of what the standard library promises here.
        name, version = (found[field] if field in found else None for field in ("Name", "Version"))  # noqa: SIM401
    except Exception:  # noqa: BLE001 - damaged metadata raises whatever its parser stumbles over
        return None, ""
    return (_normalised(name) if name else None), version or "unknown"


def _normalised(name: str) -> str:
    """The one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(document: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    try:
        interpreter = f"{document['implementation']} {document['python']}"
        distributions = {str(name): str(version) for name, version in document["distributions"]}
    except (KeyError, TypeError, ValueError) as exc:
        msg = f"Comparing environments: got kind {document.get('kind')!r}, expected an env document. Run `staytrue verify`."
        raise Corrupt("ST455", msg, kind=document.get("kind")) from exc
    return interpreter, distributions
