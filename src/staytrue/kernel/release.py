"""Identity: what a release is made of, what differs between two, and which release a revert asks for.

Every link is a digest, so a release names everything under it. A `Recipe` is what goes into a training; a `Release` is
what can be served, compared, blamed and reverted. Of a plain service it is code alone, without tables, model or recipe.
Hashing is the store's work: here are the documents that are hashed, and the decisions about them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NewType

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.kernel.canonical_json import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "AXES",
    "Axis",
    "Digest",
    "Recipe",
    "Release",
    "ancestors",
    "as_digest",
    "axes",
    "common_ancestor",
    "describe_axes",
    "identity",
    "is_digest",
    "retrains",
    "revert",
    "same_thing",
    "trained_by",
]

Digest = NewType("Digest", str)
"""64 lowercase hex digits: BLAKE3 of the bytes, or of the canonical JSON of the document, that it names."""

Axis = Literal["code", "data", "model"]
AXES: tuple[Axis, ...] = ("code", "data", "model")

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(value: object) -> bool:
    """Whether `value` is written as a digest is.

    Example:
        >>> is_digest("ab" * 32), is_digest("AB" * 32), is_digest(None)
        (True, False, False)
    """
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def as_digest(value: str) -> Digest:
    """`value` as a digest, once it is seen to be one: for ids that come from outside.

    Raises:
        InvalidInput: ST450, anything but 64 lowercase hex digits.

    Example:
        >>> as_digest("ab" * 32)[:4]
        'abab'
    """
    if not is_digest(value):
        msg = f"Reading an id: got {value!r:.80}, expected 64 lowercase hex digits. `staytrue log` lists the ids."
        raise InvalidInput("ST450", msg, got=str(value)[:80])
    return Digest(value)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What goes into a training, and nothing else: equal recipes need one training between them.

    `training_code` is the part of the code that training can see, `tables` maps each source to its table, `previous` is
    the model that a warm start begins with.

    Example:
        >>> d = Digest("00" * 32)
        >>> recipe = Recipe(training_code=d, tables={"bookings": d}, env=d, params={}, seed=0)
        >>> Recipe.from_document(recipe.document()) == recipe
        True
    """

    training_code: Digest
    tables: Mapping[str, Digest]
    env: Digest
    params: Mapping[str, Any]
    seed: int
    previous: Digest | None = None

    def document(self) -> dict[str, Any]:
        """What is hashed: the recipe's id is the digest of this document's canonical JSON."""
        return {
            "kind": "recipe",
            "training_code": self.training_code,
            "tables": _written_tables(self.tables),
            "env": self.env,
            "params": _written_params(self.params),
            "seed": self.seed,
            "previous": self.previous,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Recipe:
        """The recipe that was written as `document`.

        Raises:
            Corrupt: ST451, the document is not a recipe; it names the field.
        """
        read = _Fields(document, "recipe")
        return cls(
            training_code=read.digest("training_code"),
            tables=read.tables(),
            env=read.digest("env"),
            params=read.params(),
            seed=read.field("seed", _is_int, "a whole number"),
            previous=read.digest_or_none("previous"),
        )


@dataclass(frozen=True, kw_only=True)
class Release:
    """One thing to serve, compare, blame and revert: code, data and model under one id.

    `recipe` is the recipe that `model` was trained by. `as_trained` says whether that is the recipe of this release's
    own code and data (see `trained_by`): it is, unless a revert has mixed axes. `golden` names the rows whose answers
    every later load must reproduce; `scores` are losses by name, as measured in the trial. A plain service has neither
    `model` nor `recipe`, and no tables.

    Example:
        >>> d = Digest("00" * 32)
        >>> release = Release(
        ...     app="rates", code=d, training_code=d, tables={}, env=d, params={}, seed=0,
        ...     model=d, recipe=d, as_trained=True,
        ... )
        >>> Release.from_document(release.document()) == release
        True
    """

    app: str
    code: Digest
    training_code: Digest
    tables: Mapping[str, Digest]
    env: Digest
    params: Mapping[str, Any]
    seed: int
    model: Digest | None
    recipe: Digest | None
    as_trained: bool
    golden: Digest | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[Digest, ...] = ()

    @property
    def is_service(self) -> bool:
        """Whether it is of a plain service: code that answers without a model."""
        return self.model is None

    def trained(self) -> tuple[Digest, Digest]:
        """The model and its recipe.

        Raises:
            NotFound: ST865, a plain service has none.
        """
        if self.model is None or self.recipe is None:
            msg = f"This release of {self.app} is a plain service: it has code, and no model. `staytrue show` shows it."
            raise NotFound("ST865", msg, app=self.app)
        return self.model, self.recipe

    def document(self) -> dict[str, Any]:
        """What is hashed: the release's id is the digest of this document's canonical JSON."""
        return {
            "kind": "release",
            "app": self.app,
            "code": self.code,
            "training_code": self.training_code,
            "tables": _written_tables(self.tables),
            "env": self.env,
            "params": _written_params(self.params),
            "seed": self.seed,
            "model": self.model,
            "recipe": self.recipe,
            "as_trained": self.as_trained,
            "golden": self.golden,
            "scores": dict(self.scores),
            "parents": list(self.parents),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Release:
        """The release that was written as `document`.

        Raises:
            Corrupt: ST451, the document is not a release; it names the field.
        """
        read = _Fields(document, "release")
        parents = read.field("parents", _is_digests, "a list of digests")
        model = read.digest_or_none("model")
        return cls(
            app=read.field("app", _is_text, "a name"),
            code=read.digest("code"),
            training_code=read.digest("training_code"),
            tables=read.tables(),
            env=read.digest("env"),
            params=read.params(),
            seed=read.field("seed", _is_int, "a whole number"),
            model=model,
            recipe=read.digest("recipe") if model else read.field("recipe", lambda value: value is None, "null"),
            as_trained=read.field("as_trained", _is_bool, "true or false"),
            golden=read.digest_or_none("golden"),
            scores=read.field("scores", _is_scores, "an object of numbers"),
            parents=tuple(parents),
        )


def trained_by(release: Release, recipe: Recipe) -> bool:
    """Whether `recipe` is made of this release's own code and data: what `Release.as_trained` says of its recipe.

    The warm start's `previous` is left out: it is where the training began, not what the release is made of.
    """
    return _inputs(release) == _inputs(recipe)


def axes(a: Release, b: Release) -> tuple[Axis, ...]:
    """On which axes two releases differ; `()` when they would answer alike.

    - `code`: the files (a docs-only change too, see `retrains`), the environment, the params or the seed.
    - `data`: the tables.
    - `model`: the models, for a reason that code and data don't explain: both were trained from equal inputs and came
      out different, or one of them was taken from elsewhere by a revert. A model that differs because its inputs do is
      no axis of its own.
    """
    differs: dict[Axis, bool] = {
        "code": _code(a) != _code(b),
        "data": dict(a.tables) != dict(b.tables),
        "model": a.model != b.model and not (a.as_trained and b.as_trained and retrains(a, b)),
    }
    return tuple(axis for axis in AXES if differs[axis])


def same_thing(a: Release, b: Release) -> bool:
    """Whether two releases are of the same code, env, params, seed, data and model, whatever they came from."""
    return a.app == b.app and identity(a) == identity(b)


def identity(release: Release) -> tuple[Any, ...]:
    """What a release is made of, whatever it came from: equal for those that are the `same_thing`. JSON values only."""
    return (_code(release), dict(release.tables), release.model, release.recipe)


def retrains(a: Release, b: Release) -> bool:
    """Whether the step from `a` to `b` changes what a training sees; a change to docs, tests or fetching does not.

    Nothing is trained for a plain service.
    """
    return not b.is_service and _inputs(a) != _inputs(b)


def describe_axes(a: Release, b: Release) -> tuple[str, ...]:
    """What differs from `a` to `b`, one sentence each, in the order code, data, model; empty when nothing does."""
    found = axes(a, b)
    sentences = [*_code_sentences(a, b), *_data_sentences(a, b)]
    if "model" in found:
        sentences.append(_model_sentence(a, b))
    return tuple(sentences)


def revert(
    current: Release,
    to: Release,
    axes: frozenset[Axis],
    *,
    current_id: Digest,
    recipes: Mapping[Digest, Recipe],
) -> Release:
    """The release that is `current` with exactly the named axes taken from `to`.

    Axes that are not named stay as they are and nothing is retrained: `data` alone takes the old tables and keeps
    today's model, `code` alone runs the old code with today's model. (Training on the old data is a training with the
    old tables, not a revert.) The env, params and seed go with `code`, the model's recipe goes with `model`. Scores are
    empty and golden rows are None, since this mixture has not been measured yet.

    Args:
        current: the release to start from; nothing of it changes.
        to: a release of the same app.
        axes: at least one of `code`, `data`, `model`.
        current_id: the id of `current`, the new release's only parent.
        recipes: at least the recipe that the model of the result was trained by, by id.

    Raises:
        InvalidInput: ST452 no axis, or an unknown one; ST453 releases of two apps; ST454 the two are equal on these
        axes; ST866 one of them is a plain service, and not all axes are taken.
    """
    _check_revert(current, to, axes)
    changes: dict[str, Any] = {}
    if "code" in axes:
        changes |= {name: getattr(to, name) for name in ("code", "training_code", "env", "params", "seed")}
    if "data" in axes:
        changes |= {"tables": to.tables}
    if "model" in axes:
        changes |= {"model": to.model, "recipe": to.recipe}
    mixed = replace(current, **changes, golden=None, scores={}, parents=(current_id,))
    if identity(mixed) == identity(current):
        named = ", ".join(sorted(axes))
        msg = f"Reverting {named}: both releases have the same already. `staytrue diff` shows where they differ."
        raise InvalidInput("ST454", msg, axes=sorted(axes))
    return replace(mixed, as_trained=mixed.recipe is None or trained_by(mixed, recipes[mixed.recipe]))


def ancestors(release: Digest, parents: Mapping[Digest, tuple[Digest, ...]]) -> tuple[Digest, ...]:
    """All that `release` came from, nearest first, itself left out; releases absent from `parents` have none.

    Example:
        >>> a, b, c = (Digest(letter * 64) for letter in "abc")
        >>> [id[0] for id in ancestors(c, {c: (b,), b: (a,)})]
        ['b', 'a']
    """
    return tuple(_distances(release, parents))[1:]


def common_ancestor(a: Digest, b: Digest, parents: Mapping[Digest, tuple[Digest, ...]]) -> Digest | None:
    """The nearest release that both came from (either may be it itself); None when they share no history.

    Nearest means the fewest steps from `a` and `b` together; the smaller id wins a tie, so that the answer doesn't hang
    on the order of the arguments.
    """
    from_a, from_b = _distances(a, parents), _distances(b, parents)
    shared = from_a.keys() & from_b.keys()
    return min(shared, key=lambda id_: (from_a[id_] + from_b[id_], id_), default=None)


def _inputs(made: Release | Recipe) -> tuple[Any, ...]:
    return (made.training_code, dict(made.tables), made.env, dict(made.params), made.seed)


def _code(release: Release) -> tuple[Any, ...]:
    return (release.code, release.training_code, release.env, dict(release.params), release.seed)


def _distances(start: Digest, parents: Mapping[Digest, tuple[Digest, ...]]) -> dict[Digest, int]:
    """Steps from `start` to each of its ancestors and itself, nearest first."""
    steps = {start: 0}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for parent in parents.get(here, ()):
            if parent not in steps:
                steps[parent] = steps[here] + 1
                queue.append(parent)
    return steps


def _check_revert(current: Release, to: Release, axes: frozenset[Axis]) -> None:
    unknown = sorted(set(axes) - set(AXES))
    if unknown or not axes:
        got = ", ".join(unknown) or "none"
        msg = (
            f"Reverting: got the axes {got}, expected some of {', '.join(AXES)}. Say --code, --data, --model or --all."
        )
        raise InvalidInput("ST452", msg, got=sorted(axes), expected=list(AXES))
    if current.app != to.app:
        msg = f"Reverting {current.app} to a release of {to.app}: both must be of one app. `staytrue log` lists them."
        raise InvalidInput("ST453", msg, current=current.app, to=to.app)
    if current.is_service != to.is_service and set(axes) != set(AXES):
        msg = (
            "Reverting: one of the two releases is a plain service, without a model; code that expects one does not "
            "answer without it. Take all: --all."
        )
        raise InvalidInput("ST866", msg, axes=sorted(axes))


def _code_sentences(a: Release, b: Release) -> list[str]:
    sentences = []
    if a.is_service and b.is_service:
        sentences += ["code: files differ"] if a.code != b.code else []
    elif a.training_code != b.training_code:
        sentences.append("code: what training sees differs")
    elif a.code != b.code:
        sentences.append("code: files differ, none that training sees")
    if a.env != b.env:
        sentences.append("code: the environment differs")
    absent = object()
    for name in sorted({*a.params, *b.params}):
        old, new = a.params.get(name, absent), b.params.get(name, absent)
        if old is absent or new is absent or old != new:
            shown = ["absent" if value is absent else repr(value) for value in (old, new)]
            sentences.append(f"code: param {name} {shown[0]} -> {shown[1]}")
    if a.seed != b.seed:
        sentences.append(f"code: seed {a.seed} -> {b.seed}")
    return sentences


def _data_sentences(a: Release, b: Release) -> list[str]:
    sentences = []
    for name in sorted({*a.tables, *b.tables}):
        if name not in b.tables:
            sentences.append(f"data: table {name} is gone")
        elif name not in a.tables:
            sentences.append(f"data: table {name} is new")
        elif a.tables[name] != b.tables[name]:
            sentences.append(f"data: table {name} differs")
    return sentences


def _model_sentence(a: Release, b: Release) -> str:
    if a.is_service or b.is_service:
        return f"model: {'is new' if a.is_service else 'is gone'}"
    if a.recipe == b.recipe:
        return "model: one recipe gave two models: this training is not deterministic"
    if a.as_trained and b.as_trained:
        return "model: equal code and data, another warm start"
    elsewhere = "both models were" if not (a.as_trained or b.as_trained) else "one model was"
    return f"model: {elsewhere} trained from other code or data than the release holds"


class _Fields:
    """Reads a document field by field; the first one that is not as written by us is named."""

    def __init__(self, document: Mapping[str, Any], kind: str) -> None:
        self._document = document
        self._kind = kind
        self.field("kind", lambda value: value == kind, repr(kind))

    def field(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._document.get(name)
        if not fits(value):
            msg = f"Reading a {self._kind}: its {name} is {value!r:.80}, expected {expected}. Run `staytrue verify`."
            raise Corrupt("ST451", msg, kind=self._kind, field=name)
        return value

    def digest(self, name: str) -> Digest:
        return Digest(self.field(name, is_digest, "a digest"))

    def digest_or_none(self, name: str) -> Digest | None:
        value = self.field(name, lambda value: value is None or is_digest(value), "a digest or null")
        return None if value is None else Digest(value)

    def tables(self) -> dict[str, Digest]:
        value = self.field("tables", _is_tables, "'table:' and an id, by source")
        return {source: Digest(table.removeprefix(_TABLE)) for source, table in value.items()}

    def params(self) -> dict[str, Any]:
        return dict(json.loads(self.field("params", _is_json_object, "an object as JSON text")))


# In a document, 64 hex digits alone are a reference to an object, and `gc` waits for every object that is referred to.
# A table's id names its rows and no object, and a param may be any text: so both are written in another way.
_TABLE = "table:"


def _written_tables(tables: Mapping[str, Digest]) -> dict[str, str]:
    return {source: _TABLE + table for source, table in tables.items()}


def _written_params(params: Mapping[str, Any]) -> str:
    return canonical_json(dict(params)).decode()


def _is_tables(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(table, str) and table.startswith(_TABLE) and is_digest(table.removeprefix(_TABLE))
        for table in value.values()
    )


def _is_json_object(value: object) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_digests(value: object) -> bool:
    return isinstance(value, list) and all(is_digest(one) for one in value)


def _is_scores(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, float) or _is_int(one) for one in value.values())
