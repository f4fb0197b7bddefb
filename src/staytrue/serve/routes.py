"""Routes: the one table of what is served, which the gate, the front, the metrics and the OpenAPI document read.

A path is matched as it is, letter by letter: `//predict`, `/predict/` and `/PREDICT` are no routes. So nothing can be
one route for the gate and another for the front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from staytrue.store.tokens import Scope

__all__ = ["ROUTES", "Route", "match"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One path, its methods, and the scope that a token needs for it (None: open to everybody)."""

    path: str
    methods: tuple[str, ...]
    scope: Scope | None


def _get(path: str, scope: Scope | None = "read") -> Route:
    return Route(path=path, methods=("GET", "HEAD"), scope=scope)


def _post(path: str, scope: Scope = "predict") -> Route:
    return Route(path=path, methods=("POST",), scope=scope)


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

_PLAIN: Final = {route.path: route for route in ROUTES if "{" not in route.path}
_WITH_PARTS: Final = [(route, route.path.split("/")) for route in ROUTES if "{" in route.path]
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def match(path: str) -> tuple[Route | None, Mapping[str, str]]:
    """The route of a path (after percent-decoding) and the parts of the path that it names; (None, {}) for no route.

    Example:
        >>> route, parts = match("/v2/models/rates/infer")
        >>> route.path, route.scope, dict(parts)
        ('/v2/models/{name}/infer', 'predict', {'name': 'rates'})
        >>> match("/predict/")[0], match("/v2/models//infer")[0]
        (None, None)
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
    return None, _NOTHING
