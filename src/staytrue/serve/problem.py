"""Problems: what a caller gets in place of an answer, as an RFC 9457 document.

A problem never holds a traceback or a path of the server, and its body can always be written, whatever a caller sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused, StaytrueError, Unavailable

__all__ = ["CONTENT_TYPE", "UNEXPECTED", "Fault", "Headers", "Problem", "fault", "problem_of", "shown"]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Headers as ASGI has them: lower-case names."""

Fault: TypeAlias = Mapping[str, Any]
"""One thing that is wrong: `row`, `field`, `fault`, `message`, `got`, `expected`; what is not known is left out."""

CONTENT_TYPE: Final = b"application/problem+json"
RETRY_AFTER_S: Final = 1

_LONGEST_TEXT = 80
_LONGEST_SENTENCE = 500
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Problem:
    r"""A refusal or failure: HTTP status, stable code (docs/errors.md), what was wrong and what to do.

    `errors` tells row and field where there are any, `more` holds members that a protocol wants in the body.

    Example:
        >>> problem = Problem(status=404, code="ST733", detail="No model 'x'.")
        >>> problem.body()
        b'{"type":"urn:staytrue:ST733","title":"Not Found","status":404,"detail":"No model \'x\'.","code":"ST733"}'
        >>> [name for name, _ in problem.all_headers()]
        [b'content-type', b'content-length']
    """

    status: int
    code: str
    detail: str
    title: str = ""
    errors: Sequence[Fault] = ()
    headers: Headers = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The problem as JSON data."""
        document: dict[str, Any] = {
            # A name, not an address: where the page about a code lies is not the server's to know.
            "type": f"urn:staytrue:{self.code}",
            "title": self.title or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": _writable(self.detail),
            "code": self.code,
        }
        if self.errors:
            document["errors"] = [{name: _told(name, value) for name, value in one.items()} for one in self.errors]
        return {**document, **self.more}

    def body(self) -> bytes:
        """The problem as JSON text."""
        document = self.document()
        try:
            return _encode(document)
        except (TypeError, ValueError, RecursionError):  # `more` came from a caller's text
            return json.dumps(document, default=repr).encode()

    def all_headers(self, body: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """Its headers with type and length of the body: what ASGI wants."""
        length = len(self.body() if body is None else body)
        return [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % length), *self.headers]


def fault(message: str, **known: Any) -> Fault:
    """One entry of `errors`: `row`, `field`, `fault`, `got`, `expected`, as far as known.

    Example:
        >>> fault("Row 2 has no 'size'.", row=2, field="size", fault="missing")
        {'row': 2, 'field': 'size', 'fault': 'missing', 'message': "Row 2 has no 'size'."}
    """
    return {**{name: value for name, value in known.items() if value is not None}, "message": message}


def _told(name: str, value: Any) -> Any:
    """A member of an error; our own sentences are whole, what came from outside is short."""
    return _writable(str(value))[:_LONGEST_SENTENCE] if name in {"message", "expected"} else shown(value)


def shown(value: Any) -> Any:
    """A value that came from outside, short and safe to write as JSON.

    Example:
        >>> shown(3), shown("x" * 100)[-4:], shown([1, "a"]), shown(float("nan"))
        (3, 'xxx…', "[1, 'a']", 'NaN')
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else _cut(_digits(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _cut(_writable(value) if isinstance(value, str) else _short_repr(value))


_STATUS: Mapping[type[StaytrueError], int] = {
    InvalidInput: 422,
    Refused: 403,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
    Corrupt: 500,
}
# Absolute paths, of Unix, Windows and UNC; quoted ones with blanks in them too.
_PATH = re.compile(
    r"""(?P<quote>['"])(?:/|~/|[A-Za-z]:[\\/]|\\\\).*?(?P=quote)"""
    r"""|(?<![\w/.])(?:~?/[\w.@+~-]+(?:/[^\s'",;:()]*)?|[A-Za-z]:[\\/][^\s'",;()]*|\\\\[^\s'",;()]*)"""
)


def problem_of(exc: StaytrueError) -> Problem:
    """What a caller may know of one of our errors: its code, and its message without the server's paths.

    What tells of the server's own disk and bytes stays in the server's log: the caller gets the code.

    Example:
        >>> problem_of(InvalidInput("ST401", "Can't read '/srv/a b/x': it is 3.")).detail
        "Can't read (a path): it is 3."
        >>> busy = problem_of(Unavailable("ST402", "Can't write /srv/x: no space left."))
        >>> busy.status, busy.headers, busy.detail[:29]
        (503, ((b'retry-after', b'1'),), "The server can't answer now. ")
    """
    status = next((status for kind, status in _STATUS.items() if isinstance(exc, kind)), 500)
    if status == 503:
        detail = "The server can't answer now. Try again; its log tells more under this code."
        return Problem(status=503, code=exc.code, detail=detail, headers=((b"retry-after", b"%d" % RETRY_AFTER_S),))
    if status == 500:
        return Problem(
            status=500, code=exc.code, detail="Something kept is not what it was. The server's log tells more."
        )
    return Problem(status=status, code=exc.code, detail=_PATH.sub("(a path)", exc.message))


UNEXPECTED: Final = Problem(
    status=500, code="ST740", detail="A fault of staytrue, not of the request. The server's log tells more: report it."
)
"""For the outermost frame: something was raised that nobody foresaw."""


def _writable(text: str) -> str:
    # A lone surrogate has no UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _digits(value: int) -> str:
    # Python refuses to write out numbers of more than some thousand digits.
    return str(value) if value.bit_length() < 1000 else f"a number of {value.bit_length()} bits"


def _short_repr(value: Any) -> str:
    # Of a list or dict as far as it is shown: a repr of a megabyte is made for nothing.
    if isinstance(value, list) and len(value) > _LONGEST_TEXT:
        value = value[:_LONGEST_TEXT]
    try:
        return _writable(repr(value))
    except (ValueError, RecursionError):
        return type(value).__name__
