"""The ``verify`` command: run the checks, record the result in the manifest, fail loudly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvit import __version__
from pocketvit.errors import DataError, UsageError, VerificationError
from pocketvit.files import plain
from pocketvit.progress import track
from pocketvit.spec.artifact import Artifact, read_artifact, shipped_root, write_manifest
from pocketvit.spec.manifest import Verification
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS
from pocketvit.terminal import shown, table
from pocketvit.verify.checks import Check, run_checks
from pocketvit.verify.evaluate import check_limit
from pocketvit.verify.evaluate import eval as evaluate

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class VerifyReport:
    """All checks of one artifact."""

    name: str
    path: Path
    checks: tuple[Check, ...]
    recorded: bool
    """Whether the result was written into the manifest."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.passed for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0, or that of a verification error."""
        return 0 if self.passed else VerificationError.exit_code

    @property
    def failures(self) -> list[Check]:
        """Checks that failed."""
        return [check for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"passed": self.passed, **plain(vars(self))}

    def render(self) -> str:
        """The verdict, then a line for each variant and for each check that was skipped."""
        record = "recorded in the manifest" if self.recorded else "not recorded: the folder is read-only"
        lines = [f"{self.name}: {'verified' if self.passed else 'FAILED'}, {record}."]
        for variant in dict.fromkeys(check.variant for check in self.checks):
            mine = [check for check in self.checks if check.variant == variant and not check.skipped]
            passed = sum(check.passed for check in mine)
            lines += [f"  {variant or 'the whole':20s} {passed} of {len(mine)} checks passed"] if mine else []
        for check in self.checks:
            if check.skipped:
                lines.append(f"  skipped: {check.variant} {check.name}: {check.detail}".replace(":  ", ": "))
        return "\n".join(map(shown, [*lines, "`-v` lists every check."]))

    def details(self) -> RenderableType:
        """A table with one row for each check."""
        outcomes = ["skipped" if check.skipped else "ok" if check.passed else "FAILED" for check in self.checks]
        rows = [(c.variant, c.name, outcome, c.detail) for c, outcome in zip(self.checks, outcomes, strict=True)]
        return table(("variant", "check", "", "found"), rows)


class ChecksFailed(VerificationError):
    """Raised by :func:`verify`; ``report`` holds all checks."""

    def __init__(self, report: VerifyReport) -> None:
        first = report.failures[0]
        where = f"{report.name}{f' ({first.variant})' if first.variant else ''}"
        more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
        todo = "Do not use it: export the artifact again, or copy it again from where it was verified."
        super().__init__(f"{where}: {first.detail}{more}.", todo)
        self.report = report


def verify(
    artifact: str,
    *,
    target: str | None = None,
    data: str | None = None,
    layout: str | None = None,
    class_names: str | None = None,
    limit: int | None = None,
    negative_controls: bool = True,
    trust: bool = False,
    depth_unit: float | None = None,
) -> VerifyReport:
    """Check that an artifact is complete, unchanged and does what the trained model did.

    Checked are the manifest, sizes and checksums, limits, preprocessing and labels, names and shapes, every variant's
    answers to the golden inputs, and that damaged weights and a wrong preprocessing are noticed.
    The manifest records the result.

    Args:
        artifact: artifact folder, run folder, .pvit file or the name of a shipped artifact.
        target: check only this variant, runtime:precision[:threads]; by default all that this machine can run.
        data: also measure the main metric on this folder or list, and hold it against the manifest's.
        layout: how ``data`` is laid out; by default the first layout of its task (clean photos, class folders).
        class_names: CSV with class names for list files.
        limit: at most so many images of ``data``.
        negative_controls: also try damaged weights and wrong preprocessing, which must fail.
        trust: also run files that are programs (TorchScript), which may do anything on this machine.
        depth_unit: metres of one stored step of the depth maps of ``data``, where that is not the layout's own.

    Raises:
        VerificationError: a check failed; the message names the reason.
        UsageError: there is no such artifact or variant.
        MissingDependencyError: the engine of ``target`` is not installed.
    """
    check_limit(limit)
    found = read_artifact(artifact)
    wanted = Target.parse(target) if target is not None else None
    if wanted is not None:
        found.variant(wanted.key)
    with track(f"verify {found.manifest.name}", None) as advance:
        checks = run_checks(found, wanted, negative_controls=negative_controls, trust=trust, on_check=advance)
    if data is not None and all(check.passed for check in checks):
        options: dict[str, Any] = {"layout": layout, "class_names": class_names, "limit": limit, "trust": trust}
        options |= {"depth_unit": depth_unit}
        checks.append(_check_data(found, wanted, data, **options))
    report = VerifyReport(found.manifest.name, found.path, tuple(checks), record(found, checks))
    if not report.passed:
        raise ChecksFailed(report)
    return report


def record(artifact: Artifact, checks: Sequence[Check]) -> bool:
    """Write the result into the manifest; ``False`` for package data and folders that cannot be written."""
    if artifact.path.resolve().is_relative_to(shipped_root().resolve()) or not os.access(artifact.path, os.W_OK):
        return False
    rows = [{name: value for name, value in vars(check).items() if name != "figures"} for check in checks]
    result = Verification(passed=all(c.passed for c in checks), checks=rows, tool_version=__version__)
    try:
        write_manifest(artifact.path, artifact.manifest.model_copy(update={"verification": result}))
    except DataError:
        return False
    return True


def _check_data(artifact: Artifact, target: Target | None, data: str, **options: Any) -> Check:
    """The main metric on ``data`` against the value the manifest states for the same variant."""
    manifest = artifact.manifest
    target = target or Target.parse(manifest.default)
    name, key = manifest.main_metric, target.key
    stated = [row for row in manifest.metrics if row.variant == key and row.name == name]
    if not stated:
        what = f"the manifest states no {name} of {key} to hold {data} against."
        raise UsageError(what, "Leave out --data, or take another target.")
    condition = name.partition("@")[2]
    named = condition and not TASKS[manifest.task].degrades
    options |= {"protocol": (condition,) if named else ()}
    report = evaluate(str(artifact.path), data, target=str(target), **options)
    value = report.metrics.get(name)
    if value is None:
        what = f"{data} gives {', '.join(report.metrics)}, not {name}."
        raise UsageError(what, "Name data of the kind the manifest's metric was measured on.")
    row, spec = stated[0], TASKS[manifest.task].metric(name)
    floor, side = row.value - spec.default_drop, "at least"
    if not spec.higher_is_better:
        floor, side = row.value + spec.default_drop, "at most"
    passed = spec.loss(value, row.value) <= spec.default_drop
    stated_as = f"the manifest states {spec.text(row.value)} on {row.dataset} {row.split}"
    allowed = "" if passed else f"; allowed {side} {spec.text(floor)}"
    detail = f"{name} is {spec.text(value)} on {data}, {stated_as}{allowed}"
    return Check("data", passed, detail, key, {"value": value, "floor": floor})
