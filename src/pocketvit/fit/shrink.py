"""Step 3 of fit: shrink step by step behind the gain gate, in one runtime; which steps is said by ``fit.chains``.

A step starts from the newest kept state that it can start from, and is judged on the file that would be handed over,
against that state and against the float file. What did not pay is undone, and the chain goes on from the state before.
A model step behind file steps changes the network; the file steps are then carried out again on its new file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pocketvit.bench.remote import here
from pocketvit.bench.timing import speedup
from pocketvit.compress.step import Context, StepReport
from pocketvit.compress.table import Planned, attempts
from pocketvit.errors import MissingDependencyError, PocketvitError, UsageError, VerificationError
from pocketvit.export.built import Built
from pocketvit.fit.calibration import make_context
from pocketvit.fit.gate import Limits, judge, limits_of
from pocketvit.fit.measure import Measurer
from pocketvit.fit.plan import export_float
from pocketvit.fit.rows import Row, load_row, save_row
from pocketvit.models.trained import Trained, save_checkpoint
from pocketvit.runtimes import RUNTIMES
from pocketvit.runtimes.probe import probe
from pocketvit.tasks.load import load_checkpoint

FLOAT, MODEL, STEP_BY_STEP = "float", "model", " > "


@dataclass(frozen=True)
class State:
    """Where a chain stands: a network, the file made from it, and the file steps that led to the file."""

    row: Row
    trained: Trained
    file_steps: tuple[tuple[Planned, int], ...] = ()
    """Steps that led from the network's float file to this one, each with the number of the attempt that was kept."""


class Chain:
    """Steps of one runtime are carried out on one network; what two chains have in common is done once."""

    def __init__(
        self,
        measurer: Measurer,
        origin: str,
        folder: Path,
        runtime: str,
        notify: Callable[[str], None],
        *,
        quiet: bool = True,
    ) -> None:
        self.measurer, self.origin, self.runtime, self.notify = measurer, origin, runtime, notify
        self.quiet = quiet
        self.folder = folder / runtime
        self.limits: Limits = limits_of(measurer.recipe, measurer.main_metric)
        self.known: dict[str, State] = {}
        """States by the names of their rows."""
        self._context: Context | None = None

    def follow(self, steps: Sequence[Planned]) -> Iterator[Row]:
        """The rows of the float file and of each step, kept or not; nothing behind a float file that is refused."""
        states = [self._once(FLOAT, self.first)]
        yield states[0].row
        if not states[0].row.kept:
            return
        for step in steps:
            state = self.next(states, step)
            yield state.row
            if state.row.kept:
                states.append(state)

    def _once(self, name: str, reach: Callable[[], State]) -> State:
        if name not in self.known:
            self.known[name] = reach()
        return self.known[name]

    def first(self) -> State:
        """The float file, scored; refused where the model has learned nothing."""
        place = self.folder / FLOAT
        row = load_row(place, self._rules())
        if row is None:
            self.notify(f"{self.origin}: scoring {self.runtime}:fp32")
            built = export_float(self.measurer.trained, self.runtime, place)
            row = self._scored(self._row("fp32", "fp32", built))
            failed = "" if self.limits.floor.value is not None else self.measurer.not_learned(row)
            if refused := self.measurer.refusal(built):
                row = replace(row, kept=False, reason=refused, rules=self._rules())
                save_row(place, row)
                return State(row, self.measurer.trained)
            (timing,) = self.measurer.time([built])
            row = replace(row, timing=timing, speedup=1.0, gain=1.0, rules=self._rules())
            row = replace(row, photos=len(self.measurer.timed_on([built])))
            row = replace(row, kept=not failed, reason=failed or "the float file")
            save_row(place, row)
        return State(row, self.measurer.trained)

    def next(self, states: list[State], step: Planned) -> State:
        """The state after a step; its row says whether it is kept."""
        precisions = step.kind.starts_from
        able = [s for s in states if s.row.precision in (precisions or (s.row.precision,))]
        if not able:
            return State(self._refused(step, states[-1], "nothing that it could start from"), states[-1].trained)
        before, name = able[-1], _name(able[-1].row, step)
        return self._once(name, lambda: self._reached(states[0], before, step, self.folder / _place(name)))

    def _reached(self, origin: State, before: State, step: Planned, place: Path) -> State:
        """The state as it lies in ``place``, or made now and kept there."""
        rules = self._rules(before, step)
        if known := load_row(place, rules):
            steps = self._file_steps(before, step, known) if known.kept else before.file_steps
            return State(known, self._network(known, before), steps)
        self.notify(f"{self.origin}: {self.runtime} {step.label}")
        try:
            state = self._attempted(origin, before, step, place)
        except (UsageError, VerificationError, MissingDependencyError, RuntimeError) as error:
            if "alloc" in str(error):  # memory that is missing today may be there tomorrow: nothing is recorded
                raise
            what = error.what if isinstance(error, PocketvitError) else f"{type(error).__name__}: {error}"
            state = State(
                self._refused(step, before, f"not possible here: {' '.join(what.split())[:200]}"), before.trained
            )
        state = replace(state, row=replace(state.row, rules=rules))
        save_row(place, state.row)
        return state

    def _rules(self, before: State | None = None, step: Planned | None = None) -> dict[str, Any]:
        """What decides about a row: floor, least gains, timed image, the step's settings and where it starts from."""
        compress = self.measurer.recipe.compress
        rules = {
            "floor": vars(self.limits.floor),
            "gain": [compress.min_speedup, compress.min_shrink],
            "image": self.measurer.image.shape[:2],
            "before": [before.row.name, before.row.rules] if before else [],  # a changed step changes all behind it
            "settings": step.settings if step else {},
        }
        if self.measurer.elsewhere is not None:
            rules["timed on"] = self.measurer.elsewhere.device.name
        plain: dict[str, Any] = json.loads(json.dumps(rules))
        return plain

    def _attempted(self, origin: State, before: State, step: Planned, place: Path) -> State:
        """The first attempt that holds the floor, timed and judged; or the last one that does not."""
        place.mkdir(parents=True, exist_ok=True)
        state = before
        for number, (trained, built, report) in enumerate(self._built(before, step, place)):
            probe_risky(built, self.measurer)
            row = self._row(step.label, built.precision, built, before.row, step)
            if step.kind.calibrates:
                row = replace(row, calibration=self._shared_context().calibration_set)
            saved = self._saved(before, trained, place)
            row = replace(row, ranking=_ranking(report), model=saved, attempt=number, exits=_exits(report))
            row = self._scored(row)
            if misses := self.limits.floor.misses(row.metric or 0.0, origin.row.metric, self.limits.spec):
                state = State(replace(row, reason=f"below the floor: {misses[0]}"), before.trained)
                if step.kind.baseline:
                    break
                self.notify(f"{self.origin}: {self.runtime} {step.label}: {misses[0]}; trying a milder one")
                continue
            judged = _telling(self._judged(origin.row, before.row, row, step), report)
            return State(judged, trained, self._file_steps(before, step, row))
        return State(self._judged(origin.row, before.row, state.row, step), before.trained)

    def _built(self, before: State, step: Planned, place: Path) -> Iterator[tuple[Trained, Built, StepReport]]:
        """Network and file after each attempt of a step."""
        context = replace(self._shared_context(), folder=place)
        if step.kind.level == "file":
            assert before.row.built is not None
            yield from ((before.trained, r.built, r) for r in attempts(step, before.row.built, context))
            return
        for report in attempts(step, before.trained, context):
            assert isinstance(report.result, Trained)
            built = export_float(report.result, self.runtime, place)
            for again, number in before.file_steps:
                built = next(islice(attempts(again, built, context), number, None)).built
            yield report.result, built, report

    def _judged(self, origin: Row, before: Row, row: Row, step: Planned) -> Row:
        """The row, timed side by side with the file it started from and with the float file."""
        files = {each.name: each.built for each in (origin, before, row) if each.built is not None}
        timings = dict(zip(files, self.measurer.time(list(files.values())), strict=True))
        mine = timings[row.name]
        gain, faster = (speedup(timings[base.name], mine) for base in (before, origin))
        timed = replace(row, timing=mine, gain=gain.p50, speedup=faster.p50)
        photos = len(self.measurer.timed_on(files.values()))
        timed = replace(timed, certain=min(gain.ci95[0], faster.ci95[0]) > 1, photos=photos)
        settings, prepares = self.measurer.recipe.compress, step.kind.prepares
        judged = judge(origin, before, timed, settings, self.limits, prepares=prepares)
        turns = f"; times are means over {photos} validation photos in turn" if photos > 1 else ""
        return replace(judged, reason=judged.reason + turns)

    def _row(
        self, label: str, precision: str, built: Built | None, before: Row | None = None, step: Planned | None = None
    ) -> Row:
        name = _name(before, step) if before and step else label
        return Row(
            f"{self.origin} {self.runtime}:{name}",
            self.runtime,
            precision,
            device=here(self.measurer.recipe.target).device,
            origin=self.origin,
            before=before.name if before else "",
            step=step.label if step else "",
            settings=step.settings if step else {},
            model=before.model if before else "",
            built=built,
            main=self.measurer.main_metric,
            image=self.measurer.image.shape[:2],
            baseline=step.kind.baseline if step else False,
        )

    def _refused(self, step: Planned, before: State, reason: str) -> Row:
        row = self._row(step.label, step.kind.precision or before.row.precision, None, before.row, step)
        return replace(row, reason=reason)

    def _scored(self, row: Row) -> Row:
        assert row.built is not None
        row = replace(row, measures=self.measurer.score(row.built))
        if row.measure is None:
            names = ", ".join(m.name for m in row.measures)
            raise UsageError(f"floor.metric {row.main} is not measured here.", f"Take one of {names}.")
        return row

    def _file_steps(self, before: State, step: Planned, row: Row) -> tuple[tuple[Planned, int], ...]:
        return (*before.file_steps, (step, row.attempt)) if step.kind.level == "file" else before.file_steps

    def _saved(self, before: State, trained: Trained, place: Path) -> str:
        """Where the network is kept that a model step made; a file step leaves it where it was."""
        if trained is before.trained:
            return before.row.model
        save_checkpoint(place / MODEL, trained)
        return str(place / MODEL)

    def _network(self, row: Row, before: State) -> Trained:
        return load_checkpoint(row.model) if row.model and row.model != before.row.model else before.trained

    def _shared_context(self) -> Context:
        if self._context is None:
            self._context = make_context(self.measurer, self.runtime, self.folder, quiet=self.quiet)
        return self._context


def _name(before: Row, step: Planned) -> str:
    """The steps that lead to a file, in order: ``prune > int8``."""
    known = before.name.removeprefix(f"{before.origin} {before.runtime}:").split(STEP_BY_STEP)
    done = [part for part in known if part != "fp32"]
    return STEP_BY_STEP.join([*done, step.label])


def _place(name: str) -> str:
    """A folder's name for a chain; long ones end in what tells them apart."""
    plain = re.sub(r"[^\w.=()+-]+", "-", name.replace(STEP_BY_STEP, "+"))
    return plain if len(plain) <= 80 else f"{plain[:70]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def probe_risky(built: Built, measurer: Measurer) -> None:
    """Run a file of an engine that is known to crash once in a process of its own.

    Raises:
        VerificationError: the engine crashed, hung or refused the file.
    """
    if RUNTIMES[built.runtime].risky:
        probe(built.path, measurer.target(built), measurer.trained.preprocess.size)


def _telling(row: Row, report: StepReport) -> Row:
    """The row with what the step has to say, behind what became of it."""
    return replace(row, reason=f"{row.reason}; {report.told}") if report.told else row


def _exits(report: StepReport) -> tuple[dict[str, Any], ...]:
    """What each threshold of early exits gives."""
    return tuple(report.notes.get("exits", ()))


def _ranking(report: StepReport) -> tuple[tuple[str, float], ...]:
    return tuple((f"{x.name}{' (kept in float)' if x.kept_float else ''}", x.error) for x in report.ranking)
