"""Labels: what became true, kept before it is acknowledged.

Many callers wait for the disk at the same time and share one sync. A label may come before its prediction, late, twice,
or corrected: all of that is kept as it came, and sorted out by whoever reads (`kernel/traffic.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from staytrue.errors import InvalidInput
from staytrue.kernel.traffic import Label
from staytrue.store.records import json_text, pack_labels
from staytrue.store.segment import SegmentWriter, Syncer, traffic_folder

__all__ = ["Label", "Labels"]

_ID_BYTES: Final = 16


class Labels:
    """Writes an app's labels. For any number of threads, and for several processes, each with one of its own.

    Args:
        root: the store's folder. app: the app's name.
        limit_bytes, limit_s: as for `SegmentWriter`.

    Example:
        >>> import tempfile
        >>> with Labels(Path(tempfile.mkdtemp()), "rates") as labels:
        ...     labels.add([Label(id=None, key="booking 7", label=120.5, at_us=0, got_us=0)])
    """

    def __init__(self, root: Path, app: str, *, limit_bytes: int = 64 << 20, limit_s: float = 60.0) -> None:
        folder = traffic_folder(root, app, "labels")
        header = {"kind": "labels", "app": app}
        self._writer = SegmentWriter(folder, header, limit_bytes=limit_bytes, limit_s=limit_s)
        # Only so that a segment that grew old is closed when no more labels come: `add` waits for the disk itself.
        self._syncer = Syncer(self._writer)

    def add(self, labels: Sequence[Label]) -> None:
        """Returns once all of these are on disk.

        Raises:
            InvalidInput: ST713, a label without target or with two, or one that can't be kept; then none of them is.
            Unavailable: ST402, ST403, the disk refused. They may be there or not: give the same ones again, since one
                that is there already is no second one.
        """
        for position, label in enumerate(labels):
            _check(position, label)
        if labels:
            self._writer.commit(self._writer.write(_packed(labels)))

    def close(self) -> None:
        """Closes the segment under way."""
        self._syncer.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _packed(labels: Sequence[Label]) -> bytes:
    try:
        return pack_labels(labels)
    except (OverflowError, TypeError) as exc:
        raise InvalidInput("ST713", f"Can't keep these labels: {exc}. Whole numbers have at most 64 bits.") from exc


def _check(position: int, label: Label) -> None:
    wrong = None
    if (label.id is None) == (label.key is None):
        wrong = "it needs the id of a prediction or the key of a row, and not both"
    elif label.id is not None and len(label.id) != _ID_BYTES:
        wrong = f"its id has {len(label.id)} bytes; a UUID has {_ID_BYTES}"
    elif isinstance(label.label, float) and not math.isfinite(label.label):
        wrong = f"its value is {label.label}; expected a number that JSON has, or null to take a label back"
    elif not isinstance(label.label, int):
        try:
            json_text(label.label)
        except InvalidInput as exc:
            wrong = f"its value is not JSON: {exc}"
    if wrong is not None:
        raise InvalidInput("ST713", f"Can't keep label {position}: {wrong}.", position=position)
