"""Label: which predictions people should label next, and what they bring back.

A draw is remembered in the ledger with the probabilities by which it was made. So the labels that come back, over HTTP or
from a file, are known to be a random sample of what was answered, and say honestly what the loss is.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np

from staytrue.app import load
from staytrue.errors import InvalidInput, StaytrueError, Unavailable
from staytrue.kernel.confidence import Calibration, Expected, expected_loss, expected_losses, scores
from staytrue.kernel.few_labels import FewLabels, few_labels, next_to_label, width_with
from staytrue.kernel.metric import UserMetric
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.traffic import Label
from staytrue.settings import setting
from staytrue.store import frames
from staytrue.store.join import own_name
from staytrue.store.labels import Labels
from staytrue.store.ledger import Entry
from staytrue.store.reserve import disk_state
from staytrue.store.store import Store
from staytrue.store.traffic import plain

__all__ = [
    "LABELS",
    "Draft",
    "Judge",
    "Problem",
    "Standing",
    "Taken",
    "awaited",
    "draw",
    "judge_of",
    "standing",
    "take",
]

LABELS: Final = "labels"
"""The timeline of draws, and of files with labels."""

_DRAWN: Final = "drawn"
_TAKEN: Final = "labelled"
_MOST: Final = 10_000
_OURS: Final = frozenset({"release", "arm", "weight", "label", "label_at", "label_got_at", "flags"})
_BOUNDED: Final = frozenset({"brier", "error_rate"})
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How the app's answers are judged, as far as it is known.

    Fields:
        metric: as for `@app.predict`; None where the app is not at hand. key: column by which the source tells rows apart.
        calibration: the champion's, when it is known: then the estimate helps the labels.
    """

    metric: str | UserMetric | None = None
    key: str | None = None
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """The metric's name; that of no metric where there is none, or one of the user's own."""
        return self.metric if isinstance(self.metric, str) else ""

    @property
    def most(self) -> float | None:
        """The largest loss there is, where there is one."""
        bounded = self.name in _BOUNDED or self.name.startswith(("ndcg@", "hit@"))
        return 1.0 if bounded else None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Rows to be labelled: `rows` of them to choose from, and those chosen, each a dict with an empty `label` in the end."""

    draw: str | None
    rows: int
    lines: Sequence[Mapping[str, Any]]

    def csv(self) -> str:
        """With a head, for a spreadsheet."""
        out = io.StringIO()
        if self.lines:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(self.lines[0])
            writer.writerows(["" if v is None else v for v in line.values()] for line in self.lines)
        return out.getvalue()

    def jsonl(self) -> str:
        """A JSON object a line."""
        return "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in self.lines)


# ---------------------------------------------------------------------------------------------- drawing


def draw(
    store: Store, app: str, n: int, *, now: datetime, span: timedelta, judge: Judge, seed: int | None = None
) -> Draft:
    """Draw rows to label among the predictions of the last `span` without a label, and remember it.

    What was drawn before is not drawn again; what only a shadow answered is left out. Where answers are probabilities, a
    fifth of the draw goes to those of which the model is least sure; else all rows are equally likely.

    Args:
        n: how many, 1 to 10,000. seed: for a draw that can be repeated.

    Raises:
        InvalidInput: ST943, n. As `Traffic.batches` and `Ledger.append` otherwise.
    """
    if not 1 <= n <= _MOST:
        raise InvalidInput("ST943", f"Can't draw {n} rows to label: give 1 to {_MOST:,}.", n=n)
    gone = {id_ for one in _draws(store, app) for id_ in one["ids"]}
    seen = _seen(store, app, now - span)
    open_ = frames.take(seen, ~frames.column(seen, "label").valid)
    ids = frames.column(open_, "id").values.tolist()
    seed = int(uuid4()) >> 66 if seed is None else seed
    found = next_to_label(_unsureness(open_, judge), ids, n, seed=seed, already=gone)
    name = uuid4().hex[:12]
    chosen = [ids[row] for row in found.indices.tolist()]
    if chosen:
        body = {
            "draw": name,
            "asked": n,
            "rows": found.rows,
            "since": (now - span).isoformat(),
            "until": now.isoformat(),
            "rate": found.rate,
            "unsure_rate": found.unsure_rate,
            "cut": found.cut,
            "metric": judge.name,
            "seed": seed,
            "ids": chosen,
            "probabilities": found.probabilities.tolist(),
        }
        sentence = f"Drew {len(chosen):,} of {found.rows:,} predictions without a label, to be labelled by people."
        entry = Entry(app=app, timeline=LABELS, key=f"draw:{name}", at=now, kind=_DRAWN, sentence=sentence, body=body)
        store.ledger.append([entry], recorded_at=now)
    lines = _lines(frames.take(open_, found.indices))
    return Draft(draw=name if chosen else None, rows=found.rows, lines=lines)


def awaited(store: Store, app: str, *, now: datetime, span: timedelta) -> Draft:
    """The rows of the last `span` that were drawn and have no label yet, once more."""
    seen = _seen(store, app, now - span)
    drawn = np.isin(
        frames.column(seen, "id").values.astype(str), [id_ for one in _draws(store, app) for id_ in one["ids"]]
    )
    return Draft(
        draw=None, rows=int(drawn.sum()), lines=_lines(frames.take(seen, drawn & ~frames.column(seen, "label").valid))
    )


def _draws(store: Store, app: str) -> list[dict[str, Any]]:
    return [event.body for event in store.ledger.events(app, LABELS, kinds=[_DRAWN])]


def _seen(store: Store, app: str, since: datetime, until: datetime | None = None) -> frames.Rows:
    """The answered predictions since then, each id once, with the labels there are now."""
    # Limit: the predictions of the span are held in memory.
    asked = replace(store.traffic(since, app=app), until=until)
    rows = asked.to_arrow()
    served = (frames.column(rows, "arm").values.astype(str) != "shadow") & frames.column(rows, "answer").valid
    first = np.zeros(rows.num_rows, bool)
    ids = frames.column(rows, "id").values.astype(str)
    place = np.flatnonzero(served)
    first[place[np.unique(ids[place], return_index=True)[1]]] = True
    return frames.take(rows, first)


def _unsureness(rows: frames.Rows, judge: Judge) -> np.ndarray | None:
    """How unsure the model says it is of each answer; None where it does not say."""
    if not rows.num_rows or not judge.name:
        return None
    found = scores(judge.name, plain(frames.column(rows, "answer")))
    return None if found is None or found.weak else found.values


def _lines(rows: frames.Rows) -> list[dict[str, Any]]:
    kept = frames.select(rows, [name for name in rows.column_names if name not in _OURS and name != "answer"])
    answers = plain(frames.column(rows, "answer"))
    columns = frames.to_pydict(kept) | {
        "answer": answers.tolist() if isinstance(answers, np.ndarray) else list(answers)
    }
    columns = {name: [_shown(value) for value in values] for name, values in columns.items()}
    return [
        dict(zip((*columns, "label"), (*values, None), strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _shown(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


# ---------------------------------------------------------------------------------------------- how it stands


def judge_of(store: Store, app: str, where: str | None) -> tuple[Judge, str]:
    """What the app's file says of metric and key, what the loop knows of its confidence, and why there is less, if there is.

    A store alone is enough to label.

    Raises:
        StaytrueError: the file that was named can't be loaded.
    """
    try:
        loaded, _ = load(setting("app", where))
    except StaytrueError as exc:
        if where is not None:
            raise
        return Judge(), f"The app is not at hand, so labels are not held against its metric: {exc.message}"
    if loaded.name != app:
        return Judge(), f"The app at hand is {loaded.name}, not {app}: labels are not held against a metric."
    labelled = loaded.labelled
    return Judge(
        metric=loaded.metric, key=labelled.spec.key if labelled else None, calibration=_calibration(store, app)
    ), ""


def _calibration(store: Store, app: str) -> Calibration | None:
    lease = store.ledger.lease(app)
    life = (lease.state if lease else {}).get("life") or {}
    kept = (life.get("senses") or {}).get("calibration")
    return Calibration.from_document(kept) if kept else None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How many labels there are.

    Fields:
        rows: predictions of the span. labelled: those with a label. drawn: those that were drawn, to be labelled.
        awaited: drawn, and without a label yet. newest_label_at: when the newest label arrived.
        few: what the labels say of the loss; None without a metric or a label. sampled: whether they are a random sample.
        half_width, half_width_with_100: half of the interval, now and with 100 more labels; None where it can't be said.
    """

    app: str
    since: datetime
    rows: int
    labelled: int
    drawn: int
    awaited: int
    newest_label_at: datetime | None
    few: FewLabels | None
    sampled: bool
    half_width: float | None
    half_width_with_100: float | None
    expected: Expected | None = None
    """What would be lost on the rows without a label if only the inputs had moved; None where answers say nothing of it."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        newest = self.newest_label_at
        return values | {
            "since": self.since.isoformat(),
            "newest_label_at": newest and newest.isoformat(),
            "few": self.few and self.few.document(),
            "expected": self.expected and self.expected.document(),
        }


def standing(store: Store, app: str, *, now: datetime, span: timedelta, judge: Judge) -> Standing:
    """How many labels the predictions of the last `span` have, and what they say.

    Labels of rows that were drawn are taken for the random sample that they are. Without two of them the labels that came by
    themselves have to do: their days are then taken for what varies.
    """
    seen = _seen(store, app, now - span)
    ids = frames.column(seen, "id").values.astype(str)
    labelled = frames.column(seen, "label").valid
    draws = _draws(store, app)
    drawn = np.isin(ids, [id_ for one in draws for id_ in one["ids"]])
    sampled = int((drawn & labelled).sum()) >= 2
    few = _few(seen, labelled & drawn if sampled else labelled, draws if sampled else None, judge)
    got = frames.column(seen, "label_got_at")
    newest = int(got.values[labelled].astype(np.int64).max()) if labelled.any() else None
    half = few.best.half_width if few and math.isfinite(few.best.half_width) else None
    return Standing(
        app=app,
        since=now - span,
        rows=seen.num_rows,
        labelled=int(labelled.sum()),
        drawn=int(drawn.sum()),
        awaited=int((drawn & ~labelled).sum()),
        newest_label_at=None if newest is None else datetime.fromtimestamp(newest / 1e6, tz=now.tzinfo),
        few=few,
        sampled=sampled,
        half_width=half,
        half_width_with_100=width_with(few.best, few.units, 100) if few and sampled else None,
        expected=_expected_of(frames.take(seen, ~labelled), judge),
    )


def _expected_of(rows: frames.Rows, judge: Judge) -> Expected | None:
    state = judge.calibration
    said = scores(judge.name, plain(frames.column(rows, "answer"))) if state is not None and rows.num_rows else None
    if state is None or said is None or not state.enough or said.kind != state.curve.kind:
        return None
    return expected_loss(state, said)


def _few(
    rows: frames.Rows, which: np.ndarray, draws: Sequence[Mapping[str, Any]] | None, judge: Judge
) -> FewLabels | None:
    if judge.metric is None or not which.any():
        return None
    some = frames.take(rows, which)
    # The rows that the sample stands for: those that had no label when it was drawn.
    meant = rows if draws is None else frames.take(rows, which | ~frames.column(rows, "label").valid)
    whole = frames.to_frame(some, "pandas") if callable(judge.metric) else None
    answers, labels = plain(frames.column(some, "answer")), plain(frames.column(some, "label"))
    losses = read_metric(judge.metric).losses(answers, labels, whole)
    if draws is None:
        days = frames.column(some, "at").values.astype(np.int64) // (_DAY // timedelta(microseconds=1))
        return few_labels(losses, ticks=days, most=judge.most, **_expected(some, meant, judge))
    likely = _likely(some, draws, judge)
    return few_labels(
        losses, probabilities=likely, population=meant.num_rows, most=judge.most, **_expected(some, meant, judge)
    )


def _expected(some: frames.Rows, meant: frames.Rows, judge: Judge) -> dict[str, Any]:
    """The estimate for the labelled rows, and its mean over all that are meant; nothing where there is none."""
    state = judge.calibration
    found = [scores(judge.name, plain(frames.column(rows, "answer"))) for rows in (some, meant)]
    if state is None or not state.enough or any(one is None or one.kind != state.curve.kind for one in found):
        return {}
    each, all_ = (expected_losses(state, one) for one in found if one is not None)
    return {"expected": each, "expected_mean": float(all_.mean())}


def _likely(rows: frames.Rows, draws: Sequence[Mapping[str, Any]], judge: Judge) -> np.ndarray:
    """(n,) how likely each of these rows was to be drawn in one of the draws."""
    at = frames.column(rows, "at").values.astype(np.int64) / 1e6
    unsure = _unsureness(rows, judge)
    missed = np.ones(rows.num_rows)
    for one in draws:
        since, until = (datetime.fromisoformat(one[name]).timestamp() for name in ("since", "until"))
        rate = np.full(rows.num_rows, one["rate"])
        if unsure is not None and one["cut"] is not None and one["metric"] == judge.name:
            rate[unsure > one["cut"]] = one["unsure_rate"]
        missed *= np.where((at >= since) & (at < until), 1 - rate, 1.0)
    return np.clip(1 - missed, 1e-9, 1.0)


# ---------------------------------------------------------------------------------------------- labels from a file


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A line that was not taken: which one (from 1, the head of a CSV counted), and why."""

    line: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What came of a file: labels kept, those among them that changed one, lines without a label, and lines refused."""

    accepted: int
    corrected: int
    empty: int
    problems: Sequence[Problem]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        problems = [{"line": one.line, "code": "ST949", "message": one.why} for one in self.problems]
        return {"accepted": self.accepted, "corrected": self.corrected, "empty": self.empty, "problems": problems}


@dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    id: str
    label: Any


def take(store: Store, app: str, data: bytes, *, now: datetime, judge: Judge, source: str) -> Taken:
    """Keep the labels that a file holds; each line stands for itself, and one that can't be taken keeps no other from it.

    A label belongs to the row's key where the row has one, so that the loop learns from it too, else to the prediction.

    Args:
        data: CSV with a head, or a JSON object a line: `id` and `label`; further columns are passed over.
        source: who says so, such as the file's name.

    Raises:
        InvalidInput: ST948, this is no such file.    Unavailable: ST824, the disk is nearly full; ST402, ST403, it refuses.
    """
    lines, problems = _read(data)
    kept, empty = [], 0
    for line in lines:
        if line.label is None:
            empty += 1
        elif why := _unreadable(line.label):
            problems.append(Problem(line=line.number, why=why))
        else:
            kept.append(line)
    kept = list(_once(kept, problems))
    known = _known(store, app, kept, now)
    labels: list[Label] = []
    corrected = 0
    at_us = int(now.timestamp() * 1e6)
    for line in kept:
        row = known.get(line.id)
        if row is None:
            problems.append(Problem(line=line.number, why=f"no prediction has the id {line.id[:60]!r}"))
            continue
        label, why = _fitting(line.label, row["answer"], judge)
        if why:
            problems.append(Problem(line=line.number, why=why))
            continue
        corrected += row["label"] is not None and row["label"] != label
        key = row.get(own_name(judge.key)) if judge.key else None
        by_key = isinstance(key, (int, str)) and not isinstance(key, bool)
        labels.append(
            Label(
                id=None if by_key else UUID(line.id).bytes,
                key=key if by_key else None,
                label=label,
                at_us=at_us,
                got_us=at_us,
                source=source[:200],
            )
        )
    if labels:
        _keep(store, app, labels)
    taken = Taken(
        accepted=len(labels), corrected=corrected, empty=empty, problems=sorted(problems, key=lambda one: one.line)
    )
    if labels or problems:
        sentence = f"Took {taken.accepted:,} labels from {source[:200]}; {len(problems):,} lines were refused."
        body = {"accepted": taken.accepted, "corrected": corrected, "empty": empty, "refused": len(problems)}
        entry = Entry(app=app, timeline=LABELS, key=uuid4().hex, at=now, kind=_TAKEN, sentence=sentence, body=body)
        store.ledger.append([entry], recorded_at=now)
    return taken


def _keep(store: Store, app: str, labels: Sequence[Label]) -> None:
    if disk_state(store.root) == "full":
        raise Unavailable(
            "ST824", "The store's disk is nearly full: no label was kept. Make room, then take the file again."
        )
    with Labels(store.root, app) as writer:
        writer.add(labels)


def _read(data: bytes) -> tuple[list[_Line], list[Problem]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput("ST948", f"Can't read labels: the file is not UTF-8 ({exc}). Save it as UTF-8.") from exc
    if text.lstrip().startswith("{"):
        return _read_jsonl(text)
    return _read_csv(text)


def _read_jsonl(text: str) -> tuple[list[_Line], list[Problem]]:
    lines: list[_Line] = []
    problems: list[Problem] = []
    for number, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            problems.append(Problem(line=number, why=f"it is no JSON: {exc}"))
            continue
        if not isinstance(value, dict) or not isinstance(value.get("id"), str) or "label" not in value:
            problems.append(Problem(line=number, why="it is no object with `id` and `label`"))
            continue
        lines.append(_Line(number=number, id=value["id"].strip().lower(), label=value["label"]))
    return lines, problems


def _read_csv(text: str) -> tuple[list[_Line], list[Problem]]:
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    lines: list[_Line] = []
    problems: list[Problem] = []
    try:
        names = list(reader.fieldnames or ())
        if "id" not in names or "label" not in names:
            raise InvalidInput(
                "ST948",
                f"Can't read labels: the columns are {', '.join(map(repr, names[:20])) or 'none'}; expected `id` and `label` "
                "among them. `staytrue label --next 100` writes such a file.",
                columns=names,
            )
        for row in reader:
            id_, label = row["id"], row["label"]
            if id_ is None or label is None or None in row:
                problems.append(Problem(line=reader.line_num, why="it has more or fewer cells than the head"))
                continue
            lines.append(_Line(number=reader.line_num, id=id_.strip().lower(), label=_cell(label)))
    except csv.Error as exc:
        raise InvalidInput("ST948", f"Can't read labels: line {reader.line_num} is no CSV ({exc}).") from exc
    return lines, problems


class _Text(str):
    """A cell of a CSV: a number or a text, as the answers are."""

    __slots__ = ()


def _cell(text: str) -> _Text | None:
    return _Text(text.strip()) if text.strip() else None


def _unreadable(label: Any) -> str:
    if isinstance(label, float) and not math.isfinite(label):
        return f"the label is {label}, expected a finite number"
    if isinstance(label, int) and not -(2**63) <= label < 2**63:
        return "the label is a whole number of more than 64 bits"
    return ""


def _once(lines: Sequence[_Line], problems: list[Problem]) -> Iterator[_Line]:
    """Each id once. Where a file says two things of one row, neither is taken: which one is meant can't be known."""
    by_id: dict[str, list[_Line]] = {}
    for line in lines:
        by_id.setdefault(line.id, []).append(line)
    for same in by_id.values():
        if all(other.label == same[0].label for other in same[1:]):
            yield same[0]
            continue
        numbers = ", ".join(str(one.number) for one in same)
        problems.extend(Problem(line=one.number, why=f"lines {numbers} give one id different labels") for one in same)


def _known(store: Store, app: str, lines: Sequence[_Line], now: datetime) -> dict[str, dict[str, Any]]:
    """The row of traffic of each id, for those that there are."""
    moments = [moment for line in lines if (moment := _made_at(line.id, now)) is not None]
    if not moments:
        return {}
    seen = _seen(store, app, min(moments) - _DAY, max(moments) + _DAY)
    which = np.isin(frames.column(seen, "id").values.astype(str), [line.id for line in lines])
    some = frames.take(seen, which)
    columns = frames.to_pydict(some)
    for name in ("answer", "label"):
        values = plain(frames.column(some, name))
        valid = frames.column(some, name).valid.tolist()
        listed = values.tolist() if isinstance(values, np.ndarray) else values
        columns[name] = [value if there else None for value, there in zip(listed, valid, strict=True)]
    return {row["id"]: row for row in (dict(zip(columns, v, strict=True)) for v in zip(*columns.values(), strict=True))}


def _made_at(id_: str, now: datetime) -> datetime | None:
    """When a prediction with this id was made: it says so itself."""
    try:
        made = datetime.fromtimestamp((UUID(id_).int >> 80) / 1000, tz=now.tzinfo)
    except (ValueError, OverflowError, OSError):
        return None
    return made if made <= now + _DAY else None


def _fitting(label: Any, answer: Any, judge: Judge) -> tuple[Any, str]:
    """The label as the metric can use it, or why it can't."""
    value = _typed(label, answer)
    if isinstance(value, (list, dict)) and isinstance(answer, (int, float, str)):
        return None, f"the label {str(label)[:60]!r} is no single value, as the answer {answer!s:.60} is"
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"the label is {value}, expected a finite number"
    if judge.name:
        try:
            read_metric(judge.name).losses([answer], [value], None)
        except StaytrueError as exc:
            return None, f"the label {str(label)[:60]!r} does not fit {judge.name}: {exc.message}"
    elif isinstance(answer, float) and not isinstance(value, (int, float)):
        return None, f"the label {str(label)[:60]!r} is no number, as the answer {answer:g} is"
    return value, ""


def _typed(label: Any, answer: Any) -> Any:
    """A cell of a CSV as what the answers are: text beside text, else a number where it is one, else JSON or text."""
    if not isinstance(label, _Text):
        return label
    text = str(label)
    if isinstance(answer, str) or "_" in text:  # Python would read 1_000 as a number
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
