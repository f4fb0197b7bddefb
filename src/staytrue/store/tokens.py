"""Tokens: who may ask a server for what, kept in the ledger. A token itself is kept nowhere, only its SHA-256.

Tokens are a store's, whatever its apps. That a token was made or revoked is an event on the timeline `access`, so who
had access when can be read as long as the store lives. SHA-256 without salt or stretching is enough: a token is 256
random bits, which nobody finds by trying.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast, get_args

from staytrue.errors import Conflict, InvalidInput, NotFound
from staytrue.store.ledger import Entry, Event, Ledger

__all__ = ["ACCESS", "PREFIX", "SCOPES", "Scope", "Token", "fingerprint", "make_token", "revoke_token", "tokens"]

Scope = Literal["predict", "label", "read", "operate"]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
ACCESS: Final = "access"
"""The timeline of tokens."""
PREFIX: Final = "st_"
"""So that a token is recognised for what it is where it must not be: in a log, in a repository."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as the store knows it; `sha256` in 64 hex digits, `scopes` in the order of `SCOPES`."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    made_at: datetime
    revoked_at: datetime | None = None


def make_token(ledger: Ledger, app: str, name: str, scopes: Iterable[str], *, now: datetime) -> str:
    """A new token, to be shown once. `app`: in whose story it stands; it holds for all apps of the store.

    Raises:
        InvalidInput: ST727, a name or scopes that can't be.
        Conflict: ST728, a token with this name is in use, or another process makes one at this moment.

    Example:
        >>> import tempfile
        >>> from datetime import UTC
        >>> from pathlib import Path
        >>> ledger = Ledger.open(Path(tempfile.mkdtemp()) / "ledger.db")
        >>> made = make_token(ledger, "rates", "till", ["predict"], now=datetime(2026, 3, 1, tzinfo=UTC))
        >>> len(made), made[:3], [(t.name, t.scopes, t.sha256 == fingerprint(made)) for t in tokens(ledger)]
        (46, 'st_', [('till', ('predict',), True)])
        >>> _ = revoke_token(ledger, "till", now=datetime(2026, 3, 2, tzinfo=UTC))
        >>> tokens(ledger)
        []
        >>> ledger.close()
    """
    asked = set(scopes)
    if not _NAME.fullmatch(name):
        message = f"Can't make a token named {name[:80]!r}: expected 1 to 63 letters, digits, '.', '_' or '-', the first no sign."
        raise InvalidInput("ST727", message, name=name[:80])
    if not asked or not asked <= set(SCOPES):
        got = ", ".join(sorted(asked)) or "none"
        message = f"Can't make the token {name!r} with the scopes {got}: expected one or more of {', '.join(SCOPES)}."
        raise InvalidInput("ST727", message, name=name, got=sorted(asked), expected=list(SCOPES))
    earlier = [token for token in tokens(ledger, revoked=True) if token.name == name]
    if any(token.revoked_at is None for token in earlier):
        raise _taken(name)
    kept = [scope for scope in SCOPES if scope in asked]
    token = PREFIX + secrets.token_urlsafe(32)
    # The count makes one of two processes that take a name at the same moment fail, and lets a revoked name come again.
    entry = Entry(
        app=app,
        timeline=ACCESS,
        key=f"token_made:{name}:{len(earlier)}",
        at=now,
        kind="token_made",
        sentence=f"Made the token {name!r}; it may {', '.join(kept)}.",
        body={"name": name, "sha256": f"sha256:{fingerprint(token)}", "scopes": kept},
    )
    try:
        ledger.append([entry], recorded_at=now)
    except Conflict as exc:
        raise _taken(name) from exc
    return token


def revoke_token(ledger: Ledger, name: str, *, now: datetime) -> Token:
    """The token with this name, no longer valid from now on: a running server refuses it within a second or so.

    Raises:
        NotFound: ST729, no token in use has this name.
    """
    found = [(event, token) for event, token in _read(ledger) if token.name == name and token.revoked_at is None]
    if not found:
        message = f"No token in use is named {name[:80]!r}. `staytrue token list` names them."
        raise NotFound("ST729", message, name=name[:80])
    event, token = found[-1]
    entry = Entry(
        app=event.app,
        timeline=ACCESS,
        key=f"token_revoked:{token.sha256}",
        at=now,
        kind="token_revoked",
        sentence=f"Revoked the token {name!r}.",
        body={"name": name, "sha256": f"sha256:{token.sha256}"},
    )
    ledger.append([entry], recorded_at=now)
    return next(again for _, again in _read(ledger) if again.sha256 == token.sha256)


def tokens(ledger: Ledger, *, revoked: bool = False) -> list[Token]:
    """The tokens in use, oldest first; with `revoked`, those that were too."""
    return [token for _, token in _read(ledger) if revoked or token.revoked_at is None]


def fingerprint(token: str) -> str:
    """What is kept of a token: its SHA-256, in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _taken(name: str) -> Conflict:
    message = f"A token named {name!r} is in use. Take another name, or `staytrue token revoke {name}` first."
    return Conflict("ST728", message, name=name)


def _read(ledger: Ledger) -> list[tuple[Event, Token]]:
    """Every token ever made with the event that made it, oldest first."""
    made: dict[str, tuple[Event, Token]] = {}
    gone: dict[str, datetime] = {}
    for event in ledger.events(timeline=ACCESS, kinds=["token_made", "token_revoked"]):
        sha256 = str(event.body["sha256"]).removeprefix("sha256:")
        if event.kind == "token_revoked":
            gone[sha256] = event.at
            continue
        scopes = tuple(cast("Scope", scope) for scope in event.body["scopes"])
        made[sha256] = event, Token(name=event.body["name"], sha256=sha256, scopes=scopes, made_at=event.at)
    return [(event, Token(**{**vars(token), "revoked_at": gone.get(token.sha256)})) for event, token in made.values()]
