"""Service controller: the loop of a plain service. The same turns, without rows: new code, people, guards, and its canary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from staytrue.errors import InvalidInput, Refused
from staytrue.kernel.release import Digest
from staytrue.loop.check import check
from staytrue.loop.checked import Candidate, Checked
from staytrue.loop.controller import Controller
from staytrue.loop.jobs import Steps
from staytrue.loop.orders import Order
from staytrue.loop.proposal import Proposal
from staytrue.loop.release import release_refs
from staytrue.loop.service import answers_differ, deliver_service
from staytrue.loop.service_life import ServiceLife

__all__ = ["ServiceController"]

_LOOK: Final = timedelta(seconds=2)
"""The traffic is read at most this often for a trial."""


@dataclass
class ServiceController(Controller):
    """A plain service's loop. What it is given and does is as in `Controller`."""

    life: ServiceLife | None = None  # type: ignore[assignment]

    def _recall(self, document: Mapping[str, Any]) -> None:
        life = self._new_life()
        try:
            life.recall(document)
        except (KeyError, TypeError, ValueError) as exc:
            self.say(f"The loop can't go on from what it remembers ({exc}); it begins anew.")
            return
        self.life = life

    def _new_life(self) -> ServiceLife:  # type: ignore[override]
        app = self.ctx.app
        return ServiceLife(ctx=self.ctx, settings=app.settings, chronicle=self.chronicle, wall=self.wall)

    def _remembered(self) -> dict[str, Any] | None:
        return self.life.remember() if self.life is not None and self.life.crowned else None

    def _adopt(self, release: Digest) -> None:
        before, life = self.life, self._new_life()
        if before is not None and before.crowned:
            before.reject(self.clock(), "stopped", "another champion was made meanwhile", {})
            life.number, life.old = before.number, before.release
        life.release = release
        self.life = life
        self.say(f"Release {release[:8]} is champion; the loop goes on with it.")

    def _rearm(self, life: Any) -> None:
        """The way back is kept for as long as there is one."""

    def _work(self) -> None:
        if self.life is None:
            self._begin()
            return
        now = self.wall()
        if self.life.trial is not None and (self.life.looked is None or now - self.life.looked >= _LOOK):
            self.life.looked = now
            self.life.advance(self.clock())
            self.chronicle.write_if_told()

    def _begin(self) -> None:
        """The first release."""
        if self.failed == self.ctx.code:
            return
        try:
            self.run(deliver_service(self.ctx))
        except (InvalidInput, Refused) as exc:
            self.failed = self.ctx.code
            self.chronicle.tell("failed", f"There is no first release: {exc}", at=self.clock(), body=exc.document())
            self.chronicle.write()
            self.say(str(exc))

    def _checked(self, life: Any, proposal: Proposal) -> Steps[Checked]:
        requests = life.settings.requests
        return check(self.ctx.store, proposal, self._base(life), now=self.clock(), requests=requests)

    def _tried(self, life: ServiceLife, release: Digest, order: Order, said: Mapping[str, Any]) -> Steps[None]:  # type: ignore[override]
        ctx, now, why = self.ctx, self.clock(), order.why or "no reason given"
        new, old = (ctx.store.release_document(one) for one in (release, life.release))
        refs = release_refs(ctx, new)
        differs = yield from answers_differ(ctx, old, new)
        if differs is None:
            same = f"{why} ({order.by}); the same answers to every example."
            life.rename(release, refs, now, same, kind=order.kind or "deployed", said=said)
            return
        sentence = f"{order.by} has release {release[:8]} tried: {why}; {differs}."
        instead = f"{order.by} has another release tried: {why}"
        life.enter(release, refs, now, sentence, {**said, "differs": differs}, instead=instead)

    def _passed(self, life: Any, new: Candidate, checked: Checked, told: Mapping[str, Any]) -> Steps[None]:
        now, refs = self.clock(), (*new.refs, *checked.refs)
        if new.same_answers:
            life.rename(new.id, refs, now, checked.sentence)
        else:
            life.enter(new.id, refs, now, checked.sentence, told)
        return
        yield  # it needs no job
