"""Change: what new code changes: nothing, docs, code that a training can't see, or what a training is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from staytrue.kernel.release import Digest, Release, describe_axes
from staytrue.kernel.training_code import changes_nothing
from staytrue.loop.checking.step import Step
from staytrue.loop.context import Context
from staytrue.store import code as code_store
from staytrue.store.objects import LocalObjects

__all__ = ["Change", "behaves_alike", "identified", "reusing"]

Change = Literal["same", "docs", "code", "recipe"]
"""None; docs, tests and layout only; code that training can't see; what a training is made from."""

_SENTENCES = {
    "same": "No file differs: nothing to deploy.",
    "docs": "Docs, tests or layout only: nothing to deploy but the code id.",
    "code": "The same recipe: the model is reused.",
    "recipe": "Another recipe: it is trained.",
}


def identified(new: Context, old: Context | None, release: Release | None) -> Step:
    """What new code changes against old code, and against the release that this is of, if it is of one."""
    numbers: dict[str, Any] = {"code": new.code, "training_code": new.training_code, "env": new.env}
    if old is None:
        sentence = "There is nothing to compare it with yet."
        return Step(name="identity", status="passed", sentence=sentence, numbers={**numbers, "change": "recipe"})
    change = _change(new, old, release)
    found = code_store.files_changed(new.store.objects, old.code, new.code)
    numbers["change"] = change
    numbers["files"] = {word: list(getattr(found, word)) for word in ("added", "removed", "changed")}
    numbers["axes"] = list(describe_axes(release, reusing(new, release))) if release else []
    sentence = "Other code." if change == "code" and new.app.is_service else _SENTENCES[change]
    return Step(name="identity", status="passed", sentence=sentence, numbers=numbers)


def reusing(new: Context, release: Release) -> Release:
    """A release with this code and the model of another one; nobody has asked it anything yet."""
    params, seed = ({}, 0) if new.app.is_service else (dict(new.params), new.seed)
    return replace(
        release, code=new.code, training_code=new.training_code, env=new.env, params=params, seed=seed, golden=None
    )


def behaves_alike(objects: LocalObjects, a: Digest, b: Digest) -> bool:
    """Whether two snapshots differ in docs, tests and layout at most, so that no answer can."""
    before, after = _digests(objects, a), _digests(objects, b)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        was, now = (objects.get(side[path][0]) if path in side else None for side in (before, after))
        if not changes_nothing(path, was, now):
            return False
    return True


def _change(new: Context, old: Context, release: Release | None) -> Change:
    if new.code == old.code:
        return "same"
    if not behaves_alike(new.store.objects, old.code, new.code):
        return "code" if _same_recipe(new, old, release) else "recipe"
    # A text that training reads, such as a prompt in a .md file, is no documentation.
    return "docs" if _same_recipe(new, old, release) else "recipe"


def _same_recipe(new: Context, old: Context, release: Release | None) -> bool:
    if new.app.is_service:
        return True
    if release is not None and release.is_service:
        return False
    inputs = (new.training_code, dict(new.params), new.seed)
    if release is not None:
        return inputs == (release.training_code, dict(release.params), release.seed)
    return not old.app.is_service and inputs == (old.training_code, dict(old.params), old.seed)


def _digests(objects: LocalObjects, code: Digest) -> Mapping[str, Any]:
    return {file.path: (file.digest, file.mode) for file in code_store.load(objects, code).files}
