"""The gate: whether a request may come in, decided before any route is looked at. What is not allowed is refused.

Three questions, in this order. Is it meant for this server (Host: against DNS rebinding)? Does a page of somebody else
send it (Origin, Sec-Fetch-Site: against a page in the browser of a user who may reach this server)? May the caller do
it (token and scope)? The last one is asked for every path but the health routes, for paths that do not exist too. A
server that only its own machine reaches needs no token; any other refuses to start without one.

A browser shows its token in a cookie, which counts on the page's routes only, and never goes along from a page of somebody
else (SameSite=Strict). A link from elsewhere may lead to a page, as an address that is typed does; nothing else from there.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from staytrue.errors import InvalidInput, Refused
from staytrue.serve.problem import Problem
from staytrue.serve.routes import match
from staytrue.store.tokens import SCOPES, Scope, Token, fingerprint

__all__ = ["Caller", "Gate", "cookie_name"]

_ASKED: Final = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"authorization", b"x-forwarded-host", b"x-forwarded-proto"}
)
_BROWSER: Final = frozenset({b"cookie", b"sec-fetch-mode", b"sec-fetch-dest"})
"""Asked for beside those where one of those has to be asked for."""
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_.-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REMEMBERED: Final = 1024

_Address = tuple[str, int | None]
"""Host in lower case without brackets, and the port where one was given."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks, once the gate has let him in.

    Attributes:
        name: of the token; empty where none is needed.
        scopes: what he may do.
        cookie: the token that a cookie showed; empty where none did.
        secure: whether he speaks TLS, to us or to the proxy before us.
    """

    name: str
    scopes: frozenset[Scope]
    cookie: str
    secure: bool


def cookie_name(*, secure: bool) -> bytes:
    """The name of the cookie that shows a token; with the prefix a browser takes it from this very host by TLS only."""
    return b"__Host-staytrue" if secure else b"staytrue"


class Gate:
    """The gate of one server. A Gate that exists is a server that may start.

    Args:
        host: the address that the server binds to; empty means all.
        allowed_hosts: what else callers may say in `Host`: `name` (any port) or `name:port`.
        tokens: those in use. Without any, a server on loopback is open to everybody on its machine.
        tls: whether the server itself speaks TLS.
        behind_proxy: a proxy that speaks TLS stands before it; only then X-Forwarded-Host and -Proto are believed.
            What the proxy passes on comes from anywhere, so a token is needed on loopback too.

    Raises:
        Refused: ST720, others than this machine could reach it and there is no token; ST721, and there is no TLS.
        InvalidInput: ST726, one of `allowed_hosts` is no host.

    Example:
        >>> gate = Gate(host="127.0.0.1")
        >>> gate.check("POST", "/predict", [(b"host", b"localhost:8484")], "http") is None
        True
        >>> gate.check("POST", "/predict", [(b"host", b"evil.example")], "http").status
        421
        >>> Gate(host="0.0.0.0")
        Traceback (most recent call last):
        ...
        staytrue.errors.Refused: ST720 Can't serve on 0.0.0.0: ...
    """

    def __init__(
        self,
        *,
        host: str,
        allowed_hosts: Sequence[str] = (),
        tokens: Iterable[Token] = (),
        tls: bool = False,
        behind_proxy: bool = False,
    ) -> None:
        self._behind_proxy = behind_proxy
        self._wildcard = _is_wildcard(host)
        self._any_port, self._one_port = _allowed(host, allowed_hosts)
        # Values of Host that were found right before. Nothing that tells who asked is remembered.
        self._known_hosts: set[bytes] = set()
        self._tokens: list[tuple[str, str, frozenset[Scope]]] = []
        self._closed = not _is_loopback(host) or behind_proxy
        self.renew(tokens)
        _may_start(host, has_token=bool(self._tokens), tls=tls, behind_proxy=behind_proxy)

    @property
    def needs_token(self) -> bool:
        """Whether callers must show a token."""
        return self._closed

    def renew(self, tokens: Iterable[Token]) -> None:
        """From now on these tokens are in use. A gate that once had a token never opens again, even if all are revoked."""
        self._tokens = [(one.sha256, one.name, frozenset(one.scopes)) for one in tokens if one.revoked_at is None]
        self._closed = self._closed or bool(self._tokens)

    def check(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], scheme: str) -> Problem | None:
        """None: it may come in. Otherwise what to answer; nothing else of the request may be looked at then.

        Args:
            method: as sent; no method is treated otherwise than another.
            path: after percent-decoding, as `routes.match` is given it.
            headers: as ASGI has them, names in lower case.
            scheme: what the connection speaks, `http` or `https`.
        """
        # The hot path: an API client that sends Host and nothing else that is asked for, to a server without tokens.
        host: bytes | None = None
        simple = not self._closed
        for name, value in headers:
            if name in _ASKED:
                if host is None and name == b"host":
                    host = value
                else:
                    simple = False
        if simple and host in self._known_hosts:
            return None
        sent = _sent(headers)
        return (
            self._for_us(sent)
            or (None if _is_followed_link(method, path, sent) else self._same_origin(sent, scheme))
            or self._permitted(method, path, sent, scheme)
        )

    def caller(self, headers: Sequence[tuple[bytes, bytes]], scheme: str) -> Caller:
        """Who asks for one of the page's routes; to be asked once `check` has let him in."""
        sent = _sent(headers)
        secure = self._is_secure(sent, scheme)
        if not self._closed:
            return Caller(name="", scopes=frozenset(SCOPES), cookie="", secure=secure)
        cookie = "" if sent.get(b"authorization") else _cookie(sent, secure=secure)
        shown = cookie.encode("latin-1") or sent.get(b"authorization", [b""])[0].partition(b" ")[2].strip()
        name, scopes = self._known(shown) or ("", frozenset())
        return Caller(name=name, scopes=scopes, cookie=cookie if scopes else "", secure=secure)

    def knows(self, token: str) -> bool:
        """Whether this token is in use. Equally fast for every token, right or wrong."""
        return self._known(token.encode("utf-8", "replace")) is not None

    # -- is it meant for this server? ---------------------------------------------------------------------------------

    def _for_us(self, sent: dict[bytes, list[bytes]]) -> Problem | None:
        hosts = sent.get(b"host", [])
        if len(hosts) != 1:
            detail = (
                f"The request has {len(hosts) or 'no'} Host headers; expected one. Use a client that speaks HTTP/1.1."
            )
            return Problem(status=400, code="ST722", detail=detail)
        # Both the proxy's name for us and ours for it have to be right.
        for host in [hosts[0], *self._forwarded(sent, b"x-forwarded-host")]:
            if host in self._known_hosts:
                continue
            address = _parsed(host)
            if address is None or not self._allows(address):
                detail = (
                    f"This server does not answer for the host {_text(host)!r}. Ask it by its own address, or start it with "
                    "`--allow-host` and that name."
                )
                return Problem(status=421, code="ST722", detail=detail)
            # Any port of localhost is right: what is remembered must not grow without end.
            if len(self._known_hosts) < _REMEMBERED:
                self._known_hosts.add(host)
        return None

    def _allows(self, address: _Address) -> bool:
        name, _ = address
        # A name can be bound to any address by whoever owns it, an address can't: no page rebinds `http://10.0.0.7`. A
        # server on all addresses does not know which of them are its own (a container is probed by its address).
        return name in self._any_port or address in self._one_port or (self._wildcard and _is_address(name))

    # -- does a page of somebody else send it? ------------------------------------------------------------------------

    def _same_origin(self, sent: dict[bytes, list[bytes]], scheme: str) -> Problem | None:
        sites = sent.get(b"sec-fetch-site", [])
        origins = sent.get(b"origin", [])
        if all(site in {b"same-origin", b"none"} for site in sites) and (
            not origins or (len(origins) == 1 and self._is_own(origins[0], sent, scheme))
        ):
            return None
        shown = f"the origin {_text(origins[0])!r}" if origins else "another site"
        detail = f"A web page of {shown} sent this, and this server answers its own pages only. Call it from a program."
        return Problem(status=403, code="ST723", detail=detail)

    def _is_own(self, origin: bytes, sent: dict[bytes, list[bytes]], scheme: str) -> bool:
        secure = self._scheme(sent, scheme)
        host = [*self._forwarded(sent, b"x-forwarded-host"), *sent[b"host"]][0]
        of_page, separator, page_host = origin.lower().partition(b"://")
        page, here = _parsed(page_host), _parsed(host)
        if not separator or page is None or here is None or of_page != secure:
            return False
        default = _DEFAULT_PORTS.get(secure.decode("latin-1"))
        return (page[0], page[1] or default) == (here[0], here[1] or default)

    def _scheme(self, sent: dict[bytes, list[bytes]], scheme: str) -> bytes:
        return [*self._forwarded(sent, b"x-forwarded-proto"), scheme.encode()][0].lower()

    def _is_secure(self, sent: dict[bytes, list[bytes]], scheme: str) -> bool:
        return self._scheme(sent, scheme) == b"https"

    def _forwarded(self, sent: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
        """What the proxy said under this name: the last value, since the ones before may be the caller's own."""
        if not self._behind_proxy or name not in sent:
            return []
        return [sent[name][-1].rpartition(b",")[2].strip()]

    # -- may the caller do it? ----------------------------------------------------------------------------------------

    def _permitted(self, method: str, path: str, sent: dict[bytes, list[bytes]], scheme: str) -> Problem | None:
        route, _ = match(path)
        if not self._closed or (route is not None and route.scope is None):
            return None
        shown = sent.get(b"authorization", [])
        if not shown and route is not None and route.is_page:
            cookie = _cookie(sent, secure=self._is_secure(sent, scheme))
            shown = [b"Bearer " + cookie.encode("latin-1")] if cookie else []
        scopes = self._shown_scopes(shown)
        if isinstance(scopes, Problem):
            return scopes
        # What is no route is told to everybody with a token, whatever it is good for.
        if route is None or route.scope in scopes:
            return None
        lacks = str(route.scope)
        detail = f"The token may not {lacks}, as {method[:16]} {route.path} asks. Use one made with --scope {lacks}."
        challenge = b'Bearer realm="staytrue", error="insufficient_scope", scope="%s"' % lacks.encode()
        return Problem(status=403, code="ST725", detail=detail, headers=((b"www-authenticate", challenge),))

    def _shown_scopes(self, authorization: list[bytes]) -> frozenset[Scope] | Problem:
        """What the token in these headers may do."""
        if not authorization:
            return _unknown("Send `Authorization: Bearer TOKEN`. `staytrue token new` makes a token.")
        kind, _, token = authorization[0].partition(b" ")
        if len(authorization) > 1 or kind.lower() != b"bearer":
            return _unknown("Expected one header `Authorization: Bearer TOKEN`.", b', error="invalid_request"')
        known = self._known(token.strip())
        if known is None:
            detail = "This server has no such token, or no longer. `staytrue token list` names those in use."
            return _unknown(detail, b', error="invalid_token"')
        return known[1]

    def _known(self, token: bytes) -> tuple[str, frozenset[Scope]] | None:
        """Name and scopes of a token; None for one that is not in use. Equally fast for every token, right or wrong."""
        digest = fingerprint(token.decode("latin-1"))
        found = None
        for sha256, name, scopes in self._tokens:
            if hmac.compare_digest(sha256, digest):
                found = name, scopes
        return found


def _sent(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    sent: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _ASKED or name in _BROWSER:
            sent.setdefault(name, []).append(value)
    return sent


def _is_followed_link(method: str, path: str, sent: dict[bytes, list[bytes]]) -> bool:
    """Whether a browser shows a page because somebody followed a link to it.

    It changes nothing, and the page that had the link does not see what comes.
    """
    if method not in {"GET", "HEAD"} or b"origin" in sent:
        return False
    if sent.get(b"sec-fetch-mode") != [b"navigate"] or sent.get(b"sec-fetch-dest") != [b"document"]:
        return False
    route, _ = match(path)
    return route is not None and route.is_page


def _cookie(sent: dict[bytes, list[bytes]], *, secure: bool) -> str:
    """The token in the cookie; nothing where there is none, or several."""
    name = cookie_name(secure=secure)
    pairs = [pair.strip().partition(b"=") for value in sent.get(b"cookie", []) for pair in value.split(b";")]
    found = [value for key, _, value in pairs if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _unknown(detail: str, why: bytes = b"") -> Problem:
    headers = ((b"www-authenticate", b'Bearer realm="staytrue"' + why),)
    return Problem(status=401, code="ST724", detail=detail, headers=headers)


def _may_start(host: str, *, has_token: bool, tls: bool, behind_proxy: bool) -> None:
    if _is_loopback(host) and not behind_proxy:
        return
    where = host or "all addresses"
    if not has_token:
        message = (
            f"Can't serve on {where}: {'a proxy' if behind_proxy else 'the network'} would bring anybody's requests, and this "
            "store has no token. `staytrue token new NAME --scope predict` makes one; or serve on 127.0.0.1."
        )
        raise Refused("ST720", message, host=host)
    if not tls and not behind_proxy:
        message = (
            f"Can't serve on {where} without TLS: tokens and rows would cross the network in clear. Give --tls-cert and "
            "--tls-key, or --behind-proxy if a proxy before it speaks TLS; or serve on 127.0.0.1."
        )
        raise Refused("ST721", message, host=host)


def _allowed(host: str, allowed_hosts: Sequence[str]) -> tuple[frozenset[str], frozenset[_Address]]:
    """Names for which any port is right, and names with their one port."""
    any_port = {*_LOOPBACK_NAMES, host.strip("[]").lower()}
    one_port = set()
    for given in allowed_hosts:
        # An IPv6 address may come as people write it, without brackets.
        address = (given.lower(), None) if _is_address(given) else _parsed(given.encode("utf-8", "replace"))
        if address is None:
            message = f"Can't allow the host {given!r}: expected a name or address, with or without a port: `models.example:443`."
            raise InvalidInput("ST726", message, got=given)
        if address[1] is None:
            any_port.add(address[0])
        else:
            one_port.add(address)
    return frozenset(any_port), frozenset(one_port)


def _parsed(host: bytes) -> _Address | None:
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    if found is None:
        return None
    return found["six"] or found["name"], int(found["port"]) if found["port"] else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    bare = host.strip("[]").lower()
    return bare == "localhost" or (_is_address(bare) and ip_address(bare).is_loopback)


def _is_wildcard(host: str) -> bool:
    bare = host.strip("[]")
    return bare == "" or (_is_address(bare) and ip_address(bare).is_unspecified)


def _text(value: bytes) -> str:
    return value[:80].decode("ascii", "replace")
