"""The command ``pocketvit adapt``; it imports the torch side when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketvit.errors import UsageError

if TYPE_CHECKING:
    from pocketvit.fit.adapted import AdaptReport


def adapt(
    run: str,
    corrections: str,
    *,
    artifact: str | None = None,
    name: str | None = None,
    runs: str = "runs",
    rehearsal: float = 0.75,
    keep_out: float = 0.3,
    publish: str | None = None,
    key: Sequence[str] = (),
    quiet: bool = False,
    **overrides: Any,
) -> AdaptReport:
    """Train a model on collected corrections, and hand it over if it is better on them and has forgotten nothing.

    The float model of the run is trained on corrections and original photos, then shrunk by the recipe's steps behind
    the gain gate. The file must hold the shipped one's metric on the original validation photos (less the allowed
    drop), and be better on corrections that were kept out: with the whole 95 % interval, and of right and wrong
    answers by the exact sign test at 2.5 %. The version's last number is raised. Killed and started again it goes on.

    Args:
        run: run or checkpoint folder of the trained model, with its recipe.
        corrections: folder that ``serve --collect`` has filled (or the model's folder in it).
        artifact: what is shipped now; by default the run's own artifact, or its float model where there is none.
        name: name of the new run; by default the run's with a digest of the corrections.
        runs: folder that holds the runs.
        rehearsal: share of original photos among those that are trained on, 0 to below 1.
        keep_out: share of the corrections that only decide.
        publish: channel to publish to, as for the command publish.
        key: files with private keys, for that.
        quiet: no progress on standard error.
        overrides: what differs from the run's recipe, as for ``fit``. By default three epochs at a tenth of its rate.

    Raises:
        UsageError: there is no checkpoint or recipe, or the run is finished or was begun with another recipe.
        DataError: corrections that cannot be used, or too few.
        NothingFitsError: it has forgotten what it knew, or no file meets budget and floor; nothing was handed over.
        VerificationError: it is not better on the corrections that were kept out; nothing was handed over.
    """
    _check(rehearsal, keep_out, publish, key)
    from pocketvit.fit.adapting import carry_out, prepared  # heavy: what is wrong already is told before
    from pocketvit.train.runs import refuse_finished

    job = prepared(run, corrections, artifact, rehearsal, keep_out, overrides)
    run_name = name or f"{job.recipe.name}-adapted-{job.digest[:8]}"
    refuse_finished(job.recipe, run_name, runs)
    return carry_out(job, run_name, runs, publish, key, quiet)


def _check(rehearsal: float, keep_out: float, publish: str | None, key: Sequence[str]) -> None:
    if not 0 <= rehearsal < 1 or not 0 < keep_out < 1:
        what = f"rehearsal {rehearsal:g} and keep_out {keep_out:g} are not shares from 0 to below 1."
        raise UsageError(what, "0.75 and 0.3 are usual.")
    if (publish is None) != (not key):
        raise UsageError("publish and key go together.", "Give both, or publish with a second command.")
