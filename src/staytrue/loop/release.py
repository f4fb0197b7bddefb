"""Release: make one out of code, model and tables, check out its own code, and hold it against its golden rows."""

from __future__ import annotations

from collections.abc import Mapping

from staytrue.engines.process import Job
from staytrue.errors import Corrupt
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest, Release
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.train import Trained
from staytrue.store import code as code_store
from staytrue.store import models
from staytrue.store.ledger import Ref
from staytrue.store.models import Golden

__all__ = ["checked_out", "golden_of", "kept", "new_release", "release_refs", "same_answers"]


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
        params=dict(ctx.app.params),
        seed=ctx.app.seed,
        model=trained.model,
        recipe=trained.recipe,
        as_trained=True,
        golden=trained.golden,
        scores={name: round(value, 6) for name, value in scores.items()},
        parents=parents,
    )
    return kept(ctx, release), (*release_refs(ctx, release), *trained.refs)


def kept(ctx: Context, release: Release) -> Digest:
    """The id of a release, once its document is an object."""
    return ctx.store.objects.put_document(release.document())


def release_refs(ctx: Context, release: Release) -> tuple[Ref, ...]:
    """The reference that makes a release exist; what it names is kept with it."""
    id_ = kept(ctx, release)
    return (Ref(kind="release", name=id_, digest=id_),)


def checked_out(ctx: Context, release: Release) -> Trained:
    """Who answers for a release: its model, and its own code, checked out of the store."""
    code = code_store.load(ctx.store.objects, release.code)
    tree = code_store.checkout(ctx.store.objects, code.id, ctx.store.work / "code" / code.id)
    return Trained(
        code=release.code,
        entry=tree / code.entry,
        model=release.model,
        recipe=release.recipe,
        tables=release.tables,
        golden=release.golden,
        seal=ctx.store.seal_of(release.model),
        rows=0,
        ran=False,
    )


def golden_of(ctx: Context, release: Release) -> Steps[Digest | None]:
    """The golden rows of a release: the inputs that its model was sealed with, and what its own code answers to them.

    A release that has golden rows already must give the same answers again.

    Raises:
        Corrupt: ST640, it does not: model, code or a library is not what it was.
    """
    sealed = ctx.store.objects.get_document(release.model).get("golden")
    if sealed is None:
        return None
    rows = Golden.from_document(ctx.store.objects.get_document(Digest(sealed))).rows
    server = checked_out(ctx, release)
    job = Job(
        key=f"golden:{release.code}:{release.model}",
        task="staytrue.loop.tasks:golden",
        payload=ctx.payload(model=release.model, seal=server.seal, rows=rows) | {"entry": str(server.entry)},
        workspace=server.entry.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
    )
    outcome = (yield [job])[0]
    answers = result_of(outcome, doing=f"answer the golden rows with model {release.model[:8]}")["golden"]
    if release.golden is None:
        return ctx.store.objects.put_document(Golden(rows=rows, answers=answers).document())
    known = Golden.from_document(ctx.store.objects.get_document(release.golden))
    differs = models.answers_equal(known.answers, answers)
    if differs:
        raise Corrupt(
            "ST640",
            f"Model {release.model[:8]} does not give its golden answers again: {differs}.",
            model=release.model,
        )
    return release.golden


def same_answers(ctx: Context, a: Release, b: Release) -> bool:
    """Whether two releases of one model give the same golden answers: then nobody can tell one from the other."""
    if a.model != b.model or a.golden is None or b.golden is None:
        return False
    first, second = (Golden.from_document(ctx.store.objects.get_document(g)) for g in (a.golden, b.golden))
    return models.answers_equal(first.answers, second.answers) is None
