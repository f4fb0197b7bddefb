"""`staytrue token`: who may ask the server for what."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput, NotFound
from staytrue.store.store import Store, open_store
from staytrue.store.tokens import SCOPES, Token, make_token, revoke_token, tokens

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("action", choices=["new", "list", "revoke"], help="make one, list them, or end one")
    parser.add_argument("name", nargs="?", help="of the token: who will hold it (new, revoke)")
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        default=[],
        help="what it may do; may stand several times (new)",
    )
    parser.add_argument("--all", action="store_true", help="revoked ones too (list)")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """A new token is shown here once, and never again."""
    if (args.name is None) != (args.action == "list"):
        expected = "no name" if args.action == "list" else "the token's name"
        message = f"Can't do `staytrue token {args.action}`: expected {expected} after it."
        raise InvalidInput("ST727", message, name=args.name)
    store = open_store(args.store, must_exist=True)
    try:
        return {"new": _new, "list": _list, "revoke": _revoke}[args.action](store, args, screen)
    finally:
        store.close()


def _new(store: Store, args: argparse.Namespace, screen: Screen) -> int:
    apps = store.apps()
    if not apps:
        message = "Can't make a token: this store holds no app yet. `staytrue fetch` an app's data first."
        raise NotFound("ST729", message, name=args.name)
    made = make_token(store.ledger, apps[0], args.name, args.scope, now=datetime.now(UTC))
    kept = next(token for token in tokens(store.ledger) if token.name == args.name)
    screen.document({"token": made, **_document(kept)})
    screen.say(made)
    screen.note(
        f"It may {', '.join(kept.scopes)}. Keep it now: it is shown this once, and the store has only its SHA-256."
    )
    return 0


def _list(store: Store, args: argparse.Namespace, screen: Screen) -> int:
    known = tokens(store.ledger, revoked=args.all)
    screen.document({"tokens": [_document(token) for token in known]})
    if not known:
        screen.say("No tokens. `staytrue token new NAME --scope predict` makes one.")
        return 0
    rows = [
        [
            token.name,
            ", ".join(token.scopes),
            f"{token.made_at:%Y-%m-%d %H:%M}",
            f"{token.revoked_at:%Y-%m-%d %H:%M}" if token.revoked_at else "",
        ]
        for token in known
    ]
    screen.table(["name", "may", "made", "revoked"], rows)
    return 0


def _revoke(store: Store, args: argparse.Namespace, screen: Screen) -> int:
    gone = revoke_token(store.ledger, args.name, now=datetime.now(UTC))
    screen.document(_document(gone))
    screen.say(f"Revoked the token {gone.name!r}. Running servers refuse it within seconds.")
    return 0


def _document(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scopes": list(token.scopes),
        "made_at": token.made_at.isoformat(),
        "revoked_at": token.revoked_at.isoformat() if token.revoked_at else None,
    }
