"""One spelling for every document that is hashed: equal documents are equal bytes, on every platform."""

from __future__ import annotations

import json
from typing import Any

from staytrue.errors import InvalidInput

__all__ = ["canonical_json"]


def canonical_json(document: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; floats in Python's shortest form that reads back equal.

    Raises:
        InvalidInput: ST401, a NaN, an infinity, or a value that JSON has no word for.

    Example:
        >>> canonical_json({"b": 0.1, "a": [1, None]})
        b'{"a":[1,null],"b":0.1}'
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as exc:
        raise InvalidInput("ST401", f"Can't write a document that is to be hashed: {exc}.") from exc
