"""Release: make one out of code, model and tables, check out its own code, and hold it against its golden rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from staytrue.engines.job import other_interpreter
from staytrue.engines.process import Job
from staytrue.errors import Corrupt, InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest, Release, identity
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.train import Trained
from staytrue.store import code as code_store
from staytrue.store import models
from staytrue.store.ledger import Ref
from staytrue.store.models import Golden
from staytrue.store.objects import digest

__all__ = [
    "answered_release",
    "checked_out",
    "checked_out_code",
    "examples_answered",
    "golden_answers",
    "golden_of",
    "kept",
    "made_of",
    "new_release",
    "release_refs",
    "same_answers",
]


def new_release(
    ctx: Context, trained: Trained, *, scores: Mapping[str, float], parents: tuple[Digest, ...]
) -> tuple[Digest, tuple[Ref, ...]]:
    """The id of the release that this code and this model make, and the references that keep it."""
    release = Release(
        app=ctx.app.name,
        code=ctx.code,
        training_code=ctx.training_code,
        tables=dict(trained.tables),
        env=ctx.env,
        params=dict(ctx.params),
        seed=ctx.seed,
        model=trained.model,
        recipe=trained.recipe,
        as_trained=True,
        golden=trained.golden,
        scores={name: round(value, 6) for name, value in scores.items()},
        parents=parents,
    )
    return kept(ctx, release), (*release_refs(ctx, release), *trained.refs)


def answered_release(
    ctx: Context, trained: Trained, *, scores: Mapping[str, float] | None = None, parents: tuple[Digest, ...] = ()
) -> Steps[tuple[Release, tuple[Ref, ...]]]:
    """The release that this code and a training make, and the references that keep it, its golden rows answered by this code."""
    id_, refs = new_release(ctx, trained, scores=scores or {}, parents=parents)
    release = ctx.store.release_document(id_)
    if not trained.ran:
        # The golden answers that came with the model are those of the code under which it was trained.
        release = replace(release, golden=(yield from golden_of(ctx, replace(release, golden=None))))
        refs = (*release_refs(ctx, release), *(r for r in refs if r.kind not in ("release", "made_of")))
    return release, refs


def kept(ctx: Context, release: Release) -> Digest:
    """The id of a release, once its document is an object."""
    return ctx.store.objects.put_document(release.document())


def release_refs(ctx: Context, release: Release) -> tuple[Ref, ...]:
    """The references that make a release exist, and let it be found by what it is made of; what it names is kept with it."""
    id_ = kept(ctx, release)
    return Ref(kind="release", name=id_, digest=id_), Ref(kind="made_of", name=made_of(release), digest=id_)


def made_of(release: Release) -> Digest:
    """One digest for all releases that are the same thing, whatever they came from."""
    return digest(canonical_json(identity(release)))


def checked_out(ctx: Context, release: Release) -> Trained:
    """Who answers for a release: its model, and its own code, checked out of the store.

    Raises:
        NotFound: ST865, a plain service: it has no model.
    """
    model, recipe = release.trained()
    return Trained(
        code=release.code,
        entry=checked_out_code(ctx, release),
        model=model,
        recipe=recipe,
        tables=release.tables,
        golden=release.golden,
        seal=ctx.store.seal_of(model),
        rows=0,
        ran=False,
        interpreter=ctx.interpreter,
    )


def checked_out_code(ctx: Context, release: Release) -> Path:
    """The app's file in a release's own code, checked out of the store."""
    code = code_store.load(ctx.store.objects, release.code)
    tree = code_store.checkout(ctx.store.objects, code.id, ctx.store.work / "code" / code.id)
    return tree / code.entry


def golden_of(ctx: Context, release: Release) -> Steps[Digest | None]:
    """The golden rows of a release: the inputs that its model was sealed with, and what its own code answers to them.

    A release that has golden rows already must give the same answers again. Of a plain service the inputs are its examples.

    Raises:
        Corrupt: ST640, it does not: model, code or a library is not what it was.
        InvalidInput: ST869, a plain service that answers otherwise when it is asked again.
    """
    if release.is_service:
        return (yield from _golden_of_service(ctx, release))
    golden = yield from golden_answers(ctx, release)
    if golden is None:
        return None
    if release.golden is None:
        return ctx.store.objects.put_document(golden.document())
    known = Golden.from_document(ctx.store.objects.get_document(release.golden))
    differs = models.answers_equal(known.answers, golden.answers)
    if differs:
        raise Corrupt(
            "ST640",
            f"Model {str(release.model)[:8]} does not give its golden answers again: {differs}.",
            model=release.model,
        )
    return release.golden


def golden_answers(ctx: Context, release: Release) -> Steps[Golden | None]:
    """What a release's own code answers to the inputs that its model was sealed with. Nothing of it is kept."""
    model, _ = release.trained()
    sealed = ctx.store.objects.get_document(model).get("golden")
    if sealed is None:
        return None
    rows = Golden.from_document(ctx.store.objects.get_document(Digest(sealed))).rows
    server = checked_out(ctx, release)
    job = Job(
        key=f"golden:{release.code}:{model}:{other_interpreter(server.interpreter)}",
        task="staytrue.loop.tasks:golden",
        payload=ctx.payload(model=model, seal=server.seal, rows=rows) | {"entry": str(server.entry)},
        workspace=server.entry.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
        interpreter=server.interpreter,
        app=ctx.app.name,
    )
    outcome = (yield [job])[0]
    answers = result_of(outcome, doing=f"answer the golden rows with model {model[:8]}")["golden"]
    return Golden(rows=rows, answers=answers)


def _golden_of_service(ctx: Context, release: Release) -> Steps[Digest]:
    if release.golden is None:
        outcome = (yield [_examples_job(ctx, release, None)])[0]
        given = result_of(outcome, doing=f"answer the examples of {ctx.app.name}")
        if outcome.outbox is None:
            raise Corrupt("ST640", f"The examples of {ctx.app.name} are gone: their job left no files.")
        golden = Golden(
            rows=ctx.store.objects.put_file(Path(outcome.outbox) / given["golden_rows"]), answers=given["golden"]
        )
    else:
        golden = Golden.from_document(ctx.store.objects.get_document(release.golden))
    # In a process of its own: what hangs on the clock, on chance or on the order of a set shows here, and not when it is served.
    differs = models.answers_equal(golden.answers, (yield from examples_answered(ctx, release, golden.rows)))
    if differs and release.golden is not None:
        raise Corrupt(
            "ST640",
            f"Code {release.code[:8]} does not give its golden answers again: {differs}. Have libraries changed?",
            code_id=release.code,
        )
    if differs:
        raise InvalidInput(
            "ST869",
            f"{ctx.app.name} answers its examples otherwise when it is asked again: {differs}. A release proves itself by "
            "its answers: give examples whose answers hang on nothing but the request, or take the clock, chance or the "
            "order of a set out of them.",
            app=ctx.app.name,
        )
    return release.golden or ctx.store.objects.put_document(golden.document())


def examples_answered(ctx: Context, release: Release, rows: Digest) -> Steps[list[Any]]:
    """What a plain service's own code answers to these rows, as columns of its own types.

    Raises:
        InvalidInput: ST207, rows of other columns; ST303 to ST306, what the function gave.
    """
    outcome = (yield [_examples_job(ctx, release, rows)])[0]
    answers: list[Any] = result_of(outcome, doing=f"answer examples with code {release.code[:8]}")["golden"]
    return answers


def _examples_job(ctx: Context, release: Release, rows: Digest | None) -> Job:
    entry = checked_out_code(ctx, release)
    return Job(
        key=f"examples:{release.code}:{rows}:{other_interpreter(ctx.interpreter)}",
        task="staytrue.loop.tasks:examples",
        payload=ctx.payload(rows=rows) | {"entry": str(entry)},
        workspace=entry.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
        interpreter=ctx.interpreter,
        app=ctx.app.name,
    )


def same_answers(ctx: Context, a: Release, b: Release) -> bool:
    """Whether two releases of one model give the same golden answers: then nobody can tell one from the other."""
    if a.model is None or a.model != b.model or a.golden is None or b.golden is None:
        return False
    first, second = (Golden.from_document(ctx.store.objects.get_document(g)) for g in (a.golden, b.golden))
    return models.answers_equal(first.answers, second.answers) is None
