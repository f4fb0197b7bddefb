"""Pace: how long a batch takes, learned from those that were answered: `t(n) = a + b n`.

It decides how many rows go together, and whether a request that comes now can still be answered in time.
"""

from __future__ import annotations

__all__ = ["Pace"]

_FORGET = 0.97
"""Weight of what was known against one more batch: the last 30 or so decide."""
_FIRST_S = 0.001


class Pace:
    """A line through (rows, seconds) of the newest batches, by weighted least squares.

    Example:
        >>> pace = Pace()
        >>> for n in (1, 10, 100) * 20:
        ...     pace.learn(n, 0.001 + 0.0001 * n)
        >>> round(pace.seconds(50), 4), pace.rows_within(0.006)
        (0.006, 50)
    """

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        self._base_s, self._row_s = _FIRST_S, 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough batches were seen to go by."""
        return self._weight > _ENOUGH

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        keep = _FORGET
        self._weight = self._weight * keep + 1
        self._n = self._n * keep + rows
        self._t = self._t * keep + seconds
        self._nn = self._nn * keep + rows * rows
        self._nt = self._nt * keep + rows * seconds
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean_n * mean_n
        slope = (self._nt / self._weight - mean_n * mean_t) / spread if spread > _NO_SPREAD * mean_n * mean_n else 0.0
        # Neither part of the line can be below 0, whatever the noise; the mean is always met.
        self._row_s = min(max(slope, 0.0), mean_t / mean_n)
        self._base_s = mean_t - self._row_s * mean_n

    def seconds(self, rows: float) -> float:
        """How long a batch of so many rows takes."""
        return self._base_s + self._row_s * rows

    def rows_within(self, seconds: float) -> int:
        """How many rows can be answered together in so long; at least 1.

        Where the call alone takes most of that time: as many as take as long as the call, or it would be made in vain.
        """
        if self._row_s <= 0:
            return _MANY
        return max(1, min(_MANY, round(max(seconds - self._base_s, self._base_s) / self._row_s)))

    def wait_s(self, rows: int, together: int) -> float:
        """How long the last of so many waiting rows waits, when `together` go at a time."""
        return -(-rows // together) * self._base_s + rows * self._row_s


_ENOUGH = 4.0
_NO_SPREAD = 1e-4
_MANY = 1 << 20
