"""Restore a photograph (noise, blur): an image of the input's size, judged by PSNR and SSIM on 8-bit RGB."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, UsageError
from pocketvit.spec.detail import best_window, cut, detail
from pocketvit.spec.drawing import frame, overview
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.metrics import psnr, ssim
from pocketvit.spec.preprocess import Pixels, Preprocess
from pocketvit.spec.regions import luma, octaves, regions
from pocketvit.spec.tasks import base
from pocketvit.spec.tasks.strength import Strength, adjusted
from pocketvit.spec.tiles import to_pixels
from pocketvit.spec.typed import Range, check_ranges

OUTPUT = "restored"
MAX_PSNR = 100.0
"""dB that an exact pair counts in an average; without a cap one such pair would make the average infinite."""
PANEL, OVERVIEW = 256, 200
"""Longest sides, in pixels, of the crops that reports show and of the whole photo beside them."""
PSNR = base.MetricSpec("psnr", "dB", default_drop=0.1, tie=0.02)
SSIM = base.MetricSpec("ssim", "", default_drop=0.005, tie=0.0005)


@dataclass(frozen=True)
class RestoreConfig(base.TaskConfig):
    """How a restorer is trained."""

    name: str = "restore"
    loss: Literal["auto", "l1", "charbonnier", "mse", "log_mse"] = "auto"
    """``auto`` is log_mse: it weighs all noise levels alike."""
    loss_floor: float = 0.255
    """log_mse: smaller errors than this (root mean square, 0 to 255) hardly count. A model that is to be bold with real
    noise needs one of some levels: nearly clean photos teach it to change nothing."""
    decoder: Literal["token", "global"] | None = None
    """How an architecture that gives features makes pixels: ``token`` (the default there) from every place of its
    features those around it, on top of the input; ``global`` all of them from the pooled feature."""

    def __post_init__(self) -> None:
        check_ranges("task", self, {"loss_floor": Range(0, 255, above=True)})


@dataclass(frozen=True, repr=False)
class Restored:
    """A restored photograph."""

    image: Pixels
    """(H, W, 3) uint8, RGB."""

    def __repr__(self) -> str:
        return f"<Restored {self.line}>"

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON summary (the pixels go to a file)."""
        return {"task": "restore", "height": int(self.image.shape[0]), "width": int(self.image.shape[1])}

    def cells(self, top: int = 5) -> dict[str, str]:
        """Height and width in pixels."""
        return {"height": str(self.image.shape[0]), "width": str(self.image.shape[1])}

    @property
    def line(self) -> str:
        """Height and width in pixels."""
        return f"{self.image.shape[0]}x{self.image.shape[1]}"

    def draw(self, source: Pixels) -> Pixels:
        """The picture to look at: the restored image itself."""
        return self.image


class RestoreEvaluator:
    """PSNR (dB) and SSIM on 8-bit RGB, per image and then averaged, for each condition.

    Names: ``psnr@sigma25``; ``psnr`` for real pairs. Every metric is finite: an image's PSNR is capped at 100 dB (an
    exact pair has no finite one), and SSIM is averaged over the images of at least 11 pixels a side, where it is
    defined; a condition without any such image yields no SSIM.
    """

    def __init__(self, main_condition: str = "") -> None:
        self.main = f"{PSNR.name}@{main_condition}" if main_condition else PSNR.name
        self._scores: dict[str, list[tuple[float, float | None]]] = defaultdict(list)

    def update(self, result: Restored, truth: Any, condition: str = "") -> None:
        """``truth`` is the clean (H, W, 3) uint8 image."""
        if result.image.shape != truth.shape:
            what = f"output {result.image.shape} and ground truth {truth.shape} differ in shape."
            raise DataError(what, "Check that the pair belongs together.")
        similarity = ssim(result.image, truth) if min(truth.shape[:2]) >= 11 else None
        self._scores[condition].append((min(psnr(result.image, truth), MAX_PSNR), similarity))

    def metrics(self) -> Iterator[base.Measure]:
        """Mean PSNR and SSIM of each condition."""
        for condition, scores in self._scores.items():
            suffix = f"@{condition}" if condition else ""
            yield base.mean_measure(f"{PSNR.name}{suffix}", [value for value, _ in scores], PSNR.unit)
            if defined := [value for _, value in scores if value is not None]:
                yield base.mean_measure(f"{SSIM.name}{suffix}", defined, SSIM.unit)


class RestoreStudy:
    """PSNR of the inputs beside that of the answers; see :class:`pocketvit.spec.tasks.base.Study`."""

    def __init__(self) -> None:
        self._scores: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, case: base.Case, result: Restored) -> None:
        """Score input and answer, each capped as the metric is."""
        pair = [min(psnr(image, case.truth), MAX_PSNR) for image in (case.image, result.image)]
        self._scores[f"{PSNR.name}@{case.condition}" if case.condition else PSNR.name].append((pair[0], pair[1]))

    def to_dict(self) -> dict[str, Any]:
        """``input``, ``output`` and ``gain`` in dB for each PSNR."""
        means = {name: np.mean(scores, axis=0) for name, scores in self._scores.items()}
        return {name: {"input": float(x), "output": float(y), "gain": float(y - x)} for name, (x, y) in means.items()}

    def lines(self) -> list[str]:
        """One for each PSNR, with a warning where next to nothing is gained."""
        found = []
        for name, row in self.to_dict().items():
            found.append(
                f"{name}: input {row['input']:.2f} dB, output {row['output']:.2f} dB, gain {row['gain']:+.2f} dB"
            )
            if row["gain"] <= PSNR.default_drop:
                less = "makes photos worse" if row["gain"] < 0 else "does next to nothing"
                found.append(f"Warning: {name}: the model {less} here.")
        return found

    def pictures(self) -> list[tuple[str, list[base.Panel]]]:
        """None."""
        return []


def _check(preprocess: Preprocess) -> None:
    if preprocess.mean != (0.0, 0.0, 0.0) or preprocess.std != (1.0, 1.0, 1.0) or preprocess.resize != "tile":
        what = "restore needs preprocess.resize tile, mean [0, 0, 0] and std [1, 1, 1]."
        raise UsageError(what, "Resizing averages noise away; set the three fields in the recipe.")


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: base.TaskConfig) -> list[base.TensorSpec]:
    meaning = "RGB pixels, 0 to 255, channels last, not rounded"
    return [base.TensorSpec(name=OUTPUT, shape=preprocess.input_shape, dtype="float32", meaning=meaning)]


def _finish(raw: base.Raw, levels: Sequence[LevelSpec]) -> Restored:
    if raw[OUTPUT].dtype == np.uint8:  # blended tiles: whole pictures are not copied as float
        return Restored(raw[OUTPUT][0])
    return Restored(to_pixels(raw[OUTPUT][0]))


def _baseline(cases: Iterable[base.Case], evaluator: base.Evaluator) -> base.Measure:
    """The input itself, unchanged."""
    for case in cases:
        evaluator.update(Restored(case.image), case.truth, case.condition)
    return next(measure for measure in evaluator.metrics() if measure.name == evaluator.main)


def _change(outputs: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]) -> float:
    """Root mean square difference in pixels, 0 to 255."""
    squares = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(outputs, reference, strict=True)]
    return float(np.mean(np.sqrt(squares)))


def _adjust(image: Pixels, answer: Callable[[Pixels], base.Result], strength: float) -> Restored:
    return Restored(adjusted(image, lambda pixels: answer(pixels).draw(pixels), strength))


def _panels(image: Pixels, result: base.Result, truth: NDArray[Any], levels: Sequence[LevelSpec]) -> list[base.Panel]:
    """Where the truth has most detail, pixel for pixel; of a larger photo also where that is."""
    clean = truth.astype(np.uint8)
    box = best_window(detail(clean), clean.shape[:2], (PANEL, PANEL))
    shown = [(name, cut(each, box)) for name, each in (("input", image), ("restored", result.draw(image)))]
    shown.append(("truth", cut(clean, box)))
    if box[2:] == clean.shape[:2]:
        return shown
    whole, scale = overview(clean, OVERVIEW)
    top, left, height, width = (round(value * scale) for value in box)
    return [*shown, ("where it is", frame(whole, (top, left, height, width)))]


def _fault(truth: NDArray[Any], inputs: Pixels) -> str:
    if truth.dtype == np.uint8 and truth.shape == inputs.shape:
        return ""
    return f"the ground truth is {truth.dtype} {truth.shape}, not uint8 {inputs.shape} as the inputs"


def _signs(result: Restored, photo: Pixels) -> tuple[dict[str, float], NDArray[np.float64]]:
    before, after = (luma(regions(image)) for image in (photo, result.image))
    removed = before - after
    values = {"removed": float(np.sqrt(np.square(removed).mean()))}
    return values, np.concatenate([octaves(before), octaves(removed)])


SIGNS = base.Signs(
    {"removed": "root mean square of what the model took from the photo's luma, 0 to 255"},
    "the energy of photo and removed part in four octaves",
    _signs,
)
RESTORE = base.Task(
    name="restore",
    purpose="restores photographs (removes noise or blur)",
    config=RestoreConfig,
    layouts=("clean", "pairs", "sidd", "gopro"),
    geometry="pixels",
    degrades=True,
    labelled=False,
    metrics=(PSNR, SSIM),
    # Pixels, 0 to 255, against goldens that are rounded to 1/16; metric_drop in dB of PSNR.
    tolerances={
        "fp32": {"max_abs": 0.25, "mean_abs": 0.02, "min_cosine": 0.99999, "metric_drop": 0.02},
        "fp16": {"max_abs": 4.0, "mean_abs": 0.25, "min_cosine": 0.9999, "metric_drop": 0.1},
        "bf16": {"max_abs": 32.0, "mean_abs": 1.0, "min_cosine": 0.999, "metric_drop": 0.2},
        "int8": {"mean_abs": 5.0, "metric_drop": 0.5},
    },
    # Noise does not pack, the clean crop packs to about 0.9 of its 8 bits, an output to 12 bits a value.
    golden=base.GoldenPolicy(count=6, max_bytes=1_000_000, bytes_per_pixel=3 * 3.9, round_to=1 / 16, fault=_fault),
    protocol="8-bit RGB, input and output rounded, mean over images",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: RestoreEvaluator(condition),
    truth=lambda image, clean, labels: image if clean is None else clean,
    baseline=_baseline,
    change=_change,
    change_limits=(1.0, 0.05),
    panels=_panels,
    writes="picture",
    example="model(image).image  # (H, W, 3) uint8",
    study=lambda levels: RestoreStudy(),
    strength=Strength(),
    adjust=_adjust,
    signs=SIGNS,
    plain='Image.fromarray(np.clip(np.rint(answer), 0, 255).astype(np.uint8)).save("restored.png")\n',
    start={
        "model": {"name": "restorer_s", "weights": "denoise-color"},
        "preprocess": {
            **{"resize": "tile", "size": [256, 256], "overlap": 16},
            **{"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        },
        "train": {"minutes": 10.0, "epochs": 100, "lr": 5e-4, "weight_decay": 1e-4, "ema": 0.99},
    },
)
