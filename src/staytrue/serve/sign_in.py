"""Sign-in: the form that takes a token from a person, and the cookie that keeps it in the browser.

Script can't read the cookie (HttpOnly), no page of somebody else makes the browser send it (SameSite=Strict), and over TLS it
goes nowhere but to this host (`__Host-`, Secure).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import parse_qsl, quote

from staytrue.serve.gate import Caller, Gate, cookie_name
from staytrue.serve.response import Response

__all__ = ["HTML", "answer", "form", "local", "plain_page"]

HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_LONGEST: Final = 200
_DAYS_30_S: Final = 30 * 86_400


def answer(gate: Gate, method: str, query: str, sent: Mapping[str, str] | None, caller: Caller) -> Response:
    """What `/sign-in` and `/sign-out` (nothing `sent`) answer: the form, or the cookie and the way back."""
    secure = caller.secure
    if method != "POST":
        back = dict(parse_qsl(query)).get("back", "/")
        return form(local(back), linked=False, status=200)
    if sent is None:
        return _onwards("/", _cookie("", secure=secure, age_s=0))
    back, token = local(sent.get("back", "/")), sent.get("token", "").strip()[:_LONGEST]
    if not token or not gate.knows(token):
        return form(back, linked=False, status=401, wrong=True)
    return _onwards(back, _cookie(token, secure=secure, age_s=_DAYS_30_S))


def form(back: str, *, linked: bool, status: int, wrong: bool = False) -> Response:
    """The page that asks for a token.

    Args:
        back: where to go afterwards.
        linked: somebody else's page led here, so the browser kept its cookie to itself: one more click may do.
        wrong: the token that came was none of this server's.
    """
    said = "<p><strong>This server has no such token, or no longer.</strong></p>" if wrong else ""
    again = f'<p>You came by a link. Signed in already? <a href="{escape(back)}">Go on</a>.</p>' if linked else ""
    body = (
        f'{said}<form method="post" action="/sign-in"><p><label>Token <input name="token" type="password" required autofocus '
        f'autocomplete="current-password" size="50" maxlength="{_LONGEST}"></label></p>'
        f'<input type="hidden" name="back" value="{escape(back)}"><p><button>Sign in</button></p></form>{again}'
        "<p>On the server, <code>staytrue token new NAME --scope read --scope operate</code> makes one; "
        "<code>read</code> to look, <code>operate</code> to act.</p>"
    )
    return Response(status=status, headers=[HTML], body=_page("Sign in", body))


def plain_page(title: str, detail: str, code: str, *, again: bool) -> bytes:
    """A page that says one thing; `again`: and looks again by itself."""
    body = f"<p>{escape(detail)}</p><p><small>{escape(code)}</small></p>"
    return _page(title, body, '<meta http-equiv="refresh" content="1">' if again else _LOOKS)


def local(back: str) -> str:
    r"""A path of this server and nothing else, whatever was asked for.

    Example:
        >>> local("/apps/rates?tab=data"), local("//evil.example"), local("https://evil.example"), local("/a\\b")
        ('/apps/rates?tab=data', '/', '/', '/')
    """
    is_ours = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return quote(back, safe="/?&=%-._~+:,") if is_ours and len(back) <= 1_000 else "/"


# Files of the page's process, open to everybody: where it does not answer, the page reads without them.
_LOOKS: Final = '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css">'


def _page(title: str, body: str, head: str = _LOOKS) -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{head}<title>{escape(title)} - staytrue</title></head>'
        f'<body><main><section class="box"><h1>{escape(title)}</h1>{body}</section></main></body></html>'
    ).encode()


def _onwards(back: str, cookie: bytes) -> Response:
    return Response(status=303, headers=[(b"location", back.encode()), (b"set-cookie", cookie)])


def _cookie(token: str, *, secure: bool, age_s: int) -> bytes:
    value = token if token.isascii() and token.replace("_", "").replace("-", "").isalnum() else ""
    flags = b"; Secure" if secure else b""
    return b"%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict%s" % (
        cookie_name(secure=secure), value.encode(), age_s, flags
    )  # fmt: skip
