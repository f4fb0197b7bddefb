"""What can go wrong, as one tree: catch by what you can do about it.

    StaytrueError
    ├── InvalidInput     the call, the app or the data is wrong: change it                 exit code 2
    ├── Refused          a gate said no: the message says which number it saw              exit code 1
    ├── NotFound         no such release, app, table, object                               exit code 3
    ├── Conflict         somebody changed the same thing after your read: look, then again exit code 4
    ├── Unavailable      store, disk, engine or source does not answer: worth a retry      exit code 5
    └── Corrupt          bytes are not what they were: stop and look (`staytrue verify`)   exit code 1

Every error carries a stable code (`ST102`, listed in docs/errors.md), a message that says what was being done, the value got, the
value expected and the next step, and the same facts as data, so that CLI, API and page show the same thing.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "Conflict",
    "Corrupt",
    "InvalidInput",
    "NotFound",
    "Refused",
    "StaytrueError",
    "Unavailable",
    "from_document",
]


class StaytrueError(Exception):
    """The root of the tree. `code` is stable; `facts` holds what the message says, as JSON-able data."""

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.code} {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders (a job fails in its child): pickling must keep code and facts.
        return (_rebuild, (type(self), self.code, self.message, self.facts))

    def document(self) -> dict[str, Any]:
        """The error as JSON: what `--json` prints and the API answers."""
        return {"error": type(self).__name__, "code": self.code, "message": self.message, "facts": self.facts}


class InvalidInput(StaytrueError):
    """The call, the app or the data is wrong."""

    exit_code = 2


class Refused(StaytrueError):
    """A gate said no."""

    exit_code = 1


class NotFound(StaytrueError):
    """No such thing here."""

    exit_code = 3


class Conflict(StaytrueError):
    """Somebody changed the same thing after your read."""

    exit_code = 4


class Unavailable(StaytrueError):
    """Store, disk, engine or source does not answer; worth a retry."""

    exit_code = 5


class Corrupt(StaytrueError):
    """Bytes are not what they were."""

    exit_code = 1


def from_document(document: dict[str, Any]) -> StaytrueError | None:
    """The error that was written as `document`; None when it is none of ours.

    Example:
        >>> from_document(NotFound("ST473", "No release.", id="ab").document())
        NotFound('No release.')
        >>> from_document({"error": "KeyError", "code": None}) is None
        True
    """
    kind = _tree(StaytrueError).get(str(document.get("error")))
    if kind is None or not str(document.get("code")).startswith("ST"):
        return None
    return kind(document["code"], document["message"], **document.get("facts", {}))


def _tree(kind: type[StaytrueError]) -> dict[str, type[StaytrueError]]:
    return {kind.__name__: kind} | {name: k for sub in kind.__subclasses__() for name, k in _tree(sub).items()}


def _rebuild(kind: type[StaytrueError], code: str, message: str, facts: dict[str, Any]) -> StaytrueError:
    return kind(code, message, **facts)
