"""Served: what releases answered to live requests, found again by the key of the row that each request was about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from staytrue.kernel.release import Digest
from staytrue.store import frames
from staytrue.store.join import own_name
from staytrue.store.store import Store
from staytrue.store.traffic import plain

__all__ = ["ServedAnswers"]

_Who = tuple[Digest, Digest]
"""(code, model): who answers."""


class ServedAnswers:
    """Reads an app's traffic. What it says of one release holds for every release with the same code and model.

    Args:
        key: the column that tells rows apart, in the source and in requests.
    """

    def __init__(self, store: Store, app: str, *, key: str) -> None:
        self._store, self._app, self._key = store, app, own_name(key)
        self._known: dict[str, _Who] = {}

    def answers(
        self, who: Sequence[_Who], keys: Sequence[Any], since: datetime, until: datetime
    ) -> dict[_Who, dict[int, Any]]:
        """For each of these, the answers to the rows with these keys: place of the row -> answer.

        Only requests made from `since` to before `until` are looked at. A row that was asked about twice has the later answer;
        requests without a key, and those that failed, say nothing.
        """
        # Limit: what was compacted of a day is read as a whole, however short the span.
        places = {str(key): row for row, key in enumerate(keys)}
        found: dict[_Who, dict[int, Any]] = {one: {} for one in who}
        for rows in replace(self._store.traffic(since, until, app=self._app), recent=True).batches():
            if self._key not in rows.column_names:
                continue
            column = frames.column(rows, self._key)
            named = column.values.astype(str)
            releases = frames.column(rows, "release").values
            answer = frames.column(rows, "answer")
            asked = np.isin(named, list(places)) & column.valid & answer.valid
            for release in np.unique(releases[asked].astype(str)).tolist():
                one = self._who(release)
                if one not in found:
                    continue
                chosen = np.flatnonzero(asked & (releases == release))
                given = plain(frames.column(frames.take(rows, chosen), "answer"))
                found[one].update(
                    {places[named[row]]: value for row, value in zip(chosen, _listed(given), strict=True)}
                )
        return found

    def _who(self, release: str) -> _Who | None:
        if release not in self._known:
            document = self._store.release_document(Digest(release))
            if document.model is None:
                return None
            self._known[release] = (document.code, document.model)
        return self._known[release]


def _listed(given: Any) -> list[Any]:
    return given.tolist() if isinstance(given, np.ndarray) else list(given)
