"""Response: what goes out when all went well; `serve/problem.py` has the other case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = ["JSON", "HeaderList", "Response"]

HeaderList: TypeAlias = list[tuple[bytes, bytes]]
JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, kw_only=True)
class Response:
    """Status, headers (the length is added) and body."""

    status: int = 200
    headers: HeaderList = field(default_factory=lambda: [JSON])
    body: bytes = b""
