"""Check step: one step of a check, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Step", "StepFailedError", "skipped"]

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a check: what came of it, in words and in numbers."""

    name: str
    status: Status
    sentence: str
    seconds: float = 0.0
    numbers: Mapping[str, Any] = field(default_factory=dict)


class StepFailedError(Exception):
    """Ends a step: it failed, for this reason."""

    def __init__(self, sentence: str, numbers: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.sentence, self.numbers = sentence, numbers or {}


def skipped(name: str, why: str, numbers: Mapping[str, Any] | None = None) -> Step:
    """A step that had nothing to do, and why."""
    return Step(name=name, status="skipped", sentence=why, numbers=numbers or {})
