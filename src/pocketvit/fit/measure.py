"""Measuring candidate files before they are in an artifact: metric on the validation cases, time side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pocketvit.bench.timing import Timing, interleave
from pocketvit.data.cases import Case, eval_cases, main_condition
from pocketvit.data.collections import Splits
from pocketvit.export.artifact import tensor_specs
from pocketvit.export.built import Built
from pocketvit.models.trained import Trained
from pocketvit.runtimes.model import Model
from pocketvit.spec.evaluators import make_evaluator
from pocketvit.spec.manifest import FileEntry, Manifest, Variant
from pocketvit.spec.preprocess import Pixels
from pocketvit.spec.recipe import Recipe
from pocketvit.spec.target import Target
from pocketvit.verify.evaluate import score


@dataclass(frozen=True)
class Measurer:
    """What candidates of one trained model are measured with."""

    trained: Trained
    recipe: Recipe
    splits: Splits
    image: Pixels
    """The image that is timed: the first validation image, decoded."""

    @property
    def main_metric(self) -> str:
        """Name of the metric that decides."""
        return (
            self.recipe.floor.metric
            or make_evaluator(self.trained.task.name, self.trained.levels, main_condition(self.recipe.data, self.recipe.task.name)).main
        )

    def cases(self) -> Iterator[Case]:
        """Validation cases, decoded as they are asked for; the same for every candidate."""
        return eval_cases(self.splits.val, self.recipe.data, limit=self.recipe.search.eval_images)

    def open(self, built: Built) -> Model:
        """Load a candidate file as a callable model."""
        return Model.from_file(
            built.path,
            Target(built.runtime, built.precision, self.recipe.target.threads),
            draft_manifest(self.trained, built, self.main_metric),
        )

    def score(self, built: Built, on_image: Callable[[], None] | None = None) -> dict[str, float]:
        """All metrics of a file on the validation cases."""
        evaluator = make_evaluator(self.trained.task.name, self.trained.levels, main_condition(self.recipe.data, self.recipe.task.name))
        return score(self.open(built), self.cases(), evaluator, on_image)

    def time(self, files: Sequence[Built]) -> list[Timing]:
        """Time files in turns on one image: preprocessing, inference and postprocessing together, decoding left out."""
        models = [self.open(built) for built in files]
        calls = {str(index): (lambda model=model: model(self.image)) for index, model in enumerate(models)}  # type: ignore[misc]
        pause = 5.0 if len({built.runtime for built in files}) > 1 else 0.0
        timings = interleave(calls, seconds=self.recipe.search.timing_seconds * len(files), pause_ms=pause)
        return [timings[str(index)] for index in range(len(files))]


def make_bench(trained: Trained, splits: Splits, recipe: Recipe) -> Measurer:
    """The bench of a trained model; reads the image that is timed."""
    first = next(iter(eval_cases(splits.val, recipe.data, limit=1)))
    return Measurer(trained, recipe, splits, first.image)


def draft_manifest(trained: Trained, built: Built, main_metric: str) -> Manifest:
    """A manifest for one file that is in no artifact: enough to run it."""
    inputs, outputs = tensor_specs(trained)
    return Manifest(
        name="candidate",
        task=trained.task.name,
        levels=list(trained.levels),
        preprocess=trained.preprocess,
        inputs=inputs,
        outputs=outputs,
        files=[FileEntry(path=built.path.name, bytes=0, sha256="")],
        variants=[Variant(runtime=built.runtime, precision=built.precision, path=built.path.name)],
        default=built.key,
        main_metric=main_metric,
    )
