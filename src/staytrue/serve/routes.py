"""Routes: the one table of what is served, which the gate, the front, the metrics and the OpenAPI document read.

A path is matched as it is, letter by letter: `//predict`, `/predict/` and `/PREDICT` are no routes. So nothing can be
one route for the gate and another for the front.

The page's routes are here too, for the gate; what they answer is made by a process of its own (`serve/page.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from staytrue.store.tokens import Scope

__all__ = ["PAGES", "ROUTES", "Route", "match"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One path, its methods, and the scope that a token needs for it (None: open to everybody).

    `is_page`: for people in a browser; a cookie may show the token. Its path may end with `/{path}`: all that is below.
    """

    path: str
    methods: tuple[str, ...]
    scope: Scope | None
    is_page: bool = False


def _get(path: str, scope: Scope | None = "read") -> Route:
    return Route(path=path, methods=("GET", "HEAD"), scope=scope)


def _post(path: str, scope: Scope = "predict") -> Route:
    return Route(path=path, methods=("POST",), scope=scope)


def _page(path: str, scope: Scope | None, *methods: str) -> Route:
    return Route(path=path, methods=methods or ("GET", "HEAD"), scope=scope, is_page=True)


ROUTES: Final = (
    _post("/predict"),
    _post("/labels", "label"),
    _post("/invocations"),
    _get("/healthz", None),
    _get("/readyz", None),
    _get("/metrics"),
    _get("/openapi.json"),
    _get("/v2"),
    _get("/v2/health/live"),
    _get("/v2/health/ready"),
    _get("/v2/models/{name}"),
    _get("/v2/models/{name}/ready"),
    _post("/v2/models/{name}/infer"),
    _get("/v2/models/{name}/versions/{version}"),
    _get("/v2/models/{name}/versions/{version}/ready"),
    _post("/v2/models/{name}/versions/{version}/infer"),
)

PAGES: Final = (
    _page("/", "read"),
    _page("/apps/{path}", "read"),
    _page("/api", "read"),
    _page("/api/{path}", "read"),
    _page("/events", "read"),
    _page("/actions/{path}", "operate", "POST"),
    # The same files for everybody, as they lie in the package: who signs in needs their looks.
    _page("/static/{path}", None),
    _page("/sign-in", None, "GET", "HEAD", "POST"),
    _page("/sign-out", None, "POST"),
)
"""The page's; below a path nothing is empty, `.`, `..`, or not to be shown."""

_PLAIN: Final = {route.path: route for route in (*ROUTES, *PAGES) if "{" not in route.path}
_BELOW: Final = {route.path.split("/")[1]: route for route in PAGES if route.path.endswith("/{path}")}
_LONGEST: Final = 1_000
_WITH_PARTS: Final = [(route, route.path.split("/")) for route in ROUTES if "{" in route.path]
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def match(path: str) -> tuple[Route | None, Mapping[str, str]]:
    """The route of a path (after percent-decoding) and the parts of the path that it names; (None, {}) for no route.

    Example:
        >>> route, parts = match("/v2/models/rates/infer")
        >>> route.path, route.scope, dict(parts)
        ('/v2/models/{name}/infer', 'predict', {'name': 'rates'})
        >>> match("/predict/")[0], match("/v2/models//infer")[0], match("/static/../ledger.db")[0]
        (None, None, None)
        >>> match("/apps/rates/data")[1]["path"]
        'rates/data'
    """
    route = _PLAIN.get(path)
    if route is not None:
        return route, _NOTHING
    got = path.split("/")
    for with_parts, wanted in _WITH_PARTS:
        if len(got) == len(wanted) and all(
            g == w or (w[:1] == "{" and g != "") for g, w in zip(got, wanted, strict=True)
        ):
            return with_parts, {w[1:-1]: g for g, w in zip(got, wanted, strict=True) if w[:1] == "{"}
    if len(got) > 2 and got[0] == "" and got[1] in _BELOW and len(path) <= _LONGEST and all(map(_is_name, got[2:])):
        return _BELOW[got[1]], {"path": "/".join(got[2:])}
    return None, _NOTHING


def _is_name(segment: str) -> bool:
    """Whether no reader of a path could take this segment for anything but a name."""
    return segment not in {"", ".", ".."} and "\\" not in segment and segment.isprintable()
