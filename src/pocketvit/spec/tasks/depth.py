"""Depth from one photograph: a map in metres, or inverse depth up to a scale and a shift, scored by named protocols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import DataError, UsageError
from pocketvit.spec import depth_pictures
from pocketvit.spec.depth_files import read_depth, same_view
from pocketvit.spec.depth_metrics import ERRORS, depth_errors, protocol, resize_map
from pocketvit.spec.depth_stream import DepthStream
from pocketvit.spec.hierarchy import LevelSpec
from pocketvit.spec.preprocess import Pixels, Preprocess, nearest, resize
from pocketvit.spec.tasks import base
from pocketvit.spec.typed import Range, check_ranges

Map = NDArray[np.float32]
"""(H, W)."""
METRIC, RELATIVE = "depth", "inverse_depth"
"""Names of the one output: which of them a file has says what it holds."""
FOV = 60.0
"""Horizontal field of view in degrees, where nobody says: about that of phones."""
Intrinsics = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels."""
_LOW, _HIGH = (2.0, 98.0)
MOST_TRUTH = 160
"""Rows of a ground truth that :func:`_baseline` keeps at most: it holds all of them at once."""

_UNITS = {"sq_rel": "m", "rmse": "m"}
_DROPS = {"abs_rel": 0.002, "sq_rel": 0.01, "rmse": 0.02, "rmse_log": 0.005, "log10": 0.002, "silog": 0.5}
METRICS = tuple(
    base.MetricSpec(
        name,
        _UNITS.get(name, ""),
        default_drop=_DROPS.get(name, 0.005),
        tie=_DROPS.get(name, 0.005) / 4,
        higher_is_better=name.startswith("delta"),
    )
    for name in ERRORS
)
"""The first one decides: AbsRel, lower is better; deltas are shares, 0 to 1, higher is better."""
_BY_LAYOUT = {"scenes7": "scenes7", "nyu": "nyu", "kitti": "kitti-garg"}


@dataclass(frozen=True)
class DepthConfig(base.TaskConfig):
    """What depth means and how it is trained."""

    name: str = "depth"
    kind: Literal["metric", "relative"] = "metric"
    """``metric``: metres; ``relative``: inverse depth up to a scale and a shift, which differ from photo to photo."""
    min_depth: float = 0.001
    """Metres; a metric model answers no less."""
    max_depth: float = 10.0
    """Metres; a metric model answers no more, and ground truth beyond it teaches nothing."""
    loss: Literal["auto", "silog", "berhu", "ssi", "l1"] = "auto"
    """``auto`` is silog for metric depth and ssi (scale and shift invariant) for relative depth, which needs it."""
    silog_lambda: float = 0.85
    """silog: 1 does not see the scale at all, 0 weighs it like all else."""
    gradient_weight: float = 0.0
    """Weight of the difference of slopes at four scales: sharper edges, from dense ground truth alone."""
    chamfer_weight: float = 0.1
    """Weight of the distance between depths and bin centres, of networks with adaptive bins."""

    def __post_init__(self) -> None:
        limits = {"min_depth": Range(0, 1e4, above=True), "max_depth": Range(0, 1e4, above=True)}
        weights = {"silog_lambda": Range(0, 1), "gradient_weight": Range(0, 1e4), "chamfer_weight": Range(0, 1e4)}
        check_ranges("task", self, limits | weights)
        if not self.min_depth < self.max_depth:
            what = f"task.min_depth {self.min_depth:g} is not below task.max_depth {self.max_depth:g}."
            raise UsageError(what, "Give both in metres, the nearer one first.")
        if self.loss != "auto" and (self.loss == "ssi") != (self.kind == "relative"):
            why = "which says nothing of metres" if self.loss == "ssi" else "which compares metres"
            raise UsageError(f"task.loss {self.loss}, {why}, does not go with task.kind {self.kind}.", "Take auto.")


@dataclass(frozen=True, repr=False)
class Depth:
    """The depth of every pixel of the model's input."""

    depth: Map
    """(H, W) float32, H and W the model's: metres; where not ``metric``, inverse depth of any scale and shift."""
    metric: bool = True

    def __repr__(self) -> str:
        return f"<Depth {self.line}>"

    def resized(self, height: int, width: int) -> Map:
        """(height, width) float32, bilinear: the same values for a photo of that size."""
        return resize_map(self.depth, (height, width))

    def colored(self, low: float | None = None, high: float | None = None) -> Pixels:
        """(H, W, 3) uint8: near is bright, far is dark; ``low`` and ``high`` (metres) fix the ends of the colours."""
        return _colored(self.depth, self.metric, low, high)

    def draw(self, source: Pixels) -> Pixels:
        """The coloured map at the size of ``source``."""
        return _colored(self.resized(*source.shape[:2]), self.metric)

    def to_ply(self, path: Path, image: Pixels, intrinsics: Intrinsics | None = None, fov: float = FOV) -> None:
        """Write the points that the map stands for, one for each of its values: x right, y down, z ahead, in metres.

        Args:
            path: file to write.
            image: the photo, (h, w, 3) uint8, for the colours.
            intrinsics: fx, fy, cx, cy of the camera, in pixels of ``image``.
            fov: horizontal field of view in degrees, where there are none.

        Raises:
            UsageError: the depth is relative, which has no metres, or there is no such camera.
            DataError: no pixel has a depth, or the file cannot be written.
        """
        if not self.metric:
            raise UsageError("points need metres; relative depth has none.", "Take a model of task.kind metric.")
        (height, width), (rows, columns) = self.depth.shape, image.shape[:2]
        camera = intrinsics or depth_pictures.intrinsics_of(columns, rows, fov)
        x, y = width / columns, height / rows
        fx, fy, cx, cy = camera[0] * x, camera[1] * y, (camera[2] + 0.5) * x - 0.5, (camera[3] + 0.5) * y - 0.5
        depth_pictures.write_ply(path, self.depth, resize(image, (height, width), "bilinear"), fx, fy, cx, cy)

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """JSON summary (the values go to a file)."""
        low, middle, high = (float(value) for value in np.percentile(self.depth, (0, 50, 100)))
        size = {"height": int(self.depth.shape[0]), "width": int(self.depth.shape[1])}
        unit = {"metric": self.metric, "unit": "m" if self.metric else "relative inverse depth"}
        return {"task": "depth", **unit, **size, "min": low, "median": middle, "max": high}

    def cells(self, top: int = 5) -> dict[str, str]:
        """Least, median and largest value."""
        return {name: f"{value:.4f}" for name, value in self.to_dict().items() if name in ("min", "median", "max")}

    @property
    def line(self) -> str:
        """Range and median."""
        found = self.to_dict()
        unit = "m" if self.metric else "inverse (relative)"
        return f"{found['min']:.2f} to {found['max']:.2f} {unit}, median {found['median']:.2f}"


def _colored(values: Map, metric: bool, low: float | None = None, high: float | None = None) -> Pixels:
    if metric:
        return depth_pictures.colored(values, low, high)
    top, span = float(values.max()), float(np.ptp(values))
    return depth_pictures.colored(top - values + (1e-3 * span or 1.0))  # near is small, as it is in metres


class DepthEvaluator:
    """Errors of each image over the pixels that count in a protocol, and then averaged, for each protocol.

    Names: ``abs_rel@nyu+median``; without a protocol (goldens) ``abs_rel``, over all valid pixels. Images without any
    are left out. Relative depth is aligned as the protocol says.
    """

    def __init__(self, main_condition: str = "") -> None:
        self.main = f"{METRICS[0].name}@{main_condition}" if main_condition else METRICS[0].name
        self._errors: dict[str, list[dict[str, float]]] = defaultdict(list)

    def update(self, result: Depth, truth: Any, condition: str = "") -> None:
        """``truth`` is (h, w) in metres, 0 where there is none; ``condition`` the name of a protocol.

        Raises:
            UsageError: the depth is relative and the protocol aligns nothing.
        """
        rules = protocol(condition or ("plain" if result.metric else "plain+least_squares"))
        if not result.metric and rules.alignment == "none":
            todo = f"Name one that aligns: {condition}+least_squares or {condition}+median."
            raise UsageError(f"protocol {condition} compares metres; this model's depth is relative.", todo)
        errors = depth_errors(result.depth, np.asarray(truth, np.float32), rules, inverse=not result.metric)
        self._errors[condition] += [errors] if errors else []

    def metrics(self) -> Iterator[base.Measure]:
        """Means over the images.

        Raises:
            DataError: no pixel of any ground truth counts.
        """
        for condition, found in self._errors.items():
            if not found:
                what = f"no pixel of the ground truth counts in protocol {condition or 'plain'}."
                raise DataError(what, "Look at the unit of the depth maps (data.depth_unit), or name --protocol plain.")
            for spec in METRICS:
                name = f"{spec.name}@{condition}" if condition else spec.name
                yield base.mean_measure(name, [row[spec.name] for row in found], spec.unit)


def _conditions(asked: Sequence[str], layout: str) -> tuple[str, ...]:
    """The protocols: those that are asked for, or the layout's."""
    if layout == "clean":
        raise UsageError(
            "photos of layout clean have no depth to score answers against.",
            "Name validation data with depth maps: data.val and data.val_layout.",
        )
    return tuple(protocol(name).text for name in asked) or (_BY_LAYOUT.get(layout, "plain"),)


def _check(preprocess: Preprocess) -> None:
    if preprocess.resize != "stretch":
        what = f"depth needs preprocess.resize stretch, not {preprocess.resize}."
        raise UsageError(what, "Every pixel of the photo gets a depth: set preprocess.resize: stretch.")


def _outputs(levels: Sequence[LevelSpec], preprocess: Preprocess, config: base.TaskConfig) -> list[base.TensorSpec]:
    metric = getattr(config, "kind", "metric") == "metric"
    meaning = "depth in metres along the camera's axis" if metric else "inverse depth, of any scale and shift"
    shape = [1, *preprocess.size]
    return [base.TensorSpec(name=METRIC if metric else RELATIVE, shape=shape, dtype="float32", meaning=meaning)]


def _finish(raw: base.Raw, levels: Sequence[LevelSpec]) -> Depth:
    metric = METRIC in raw
    return Depth(np.asarray(raw[METRIC if metric else RELATIVE][0], np.float32), metric)


def _truth(image: Pixels, depth: base.Truth | None, labels: tuple[int, ...]) -> Map:
    """Metres; of a photo without a map nothing is known."""
    return np.zeros(image.shape[:2], np.float32) if depth is None else depth.astype(np.float32)


def _kept(truth: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """At the model's size, in half precision: 0.05 % of a depth."""
    return nearest(truth, size).astype(np.float16)


def _fault(truths: NDArray[Any], inputs: Pixels) -> str:
    if truths.dtype.kind == "f" and truths.shape == inputs.shape[:3] and (truths >= 0).all():
        return ""
    return f"the ground truth is {truths.dtype} {truths.shape}, not metres {inputs.shape[:3]} as the inputs"


def _baseline(cases: Iterable[base.Case], evaluator: base.Evaluator) -> base.Measure:
    """Everywhere the one depth that has the least AbsRel: the median of all depths, each weighed by its inverse."""
    kept = []
    for case in cases:
        step = max(1, case.truth.shape[0] // MOST_TRUTH)
        kept.append((case.truth[::step, ::step], case.condition))
    known = np.sort(np.concatenate([np.ones(0), *(truth[truth > 0] for truth, _ in kept)]))
    weights = np.cumsum(1 / known)
    middle = float(known[np.searchsorted(weights, weights[-1] / 2)]) if len(known) else 1.0
    for truth, condition in kept:
        evaluator.update(Depth(np.full(truth.shape, middle, np.float32)), truth, condition)
    return next(measure for measure in evaluator.metrics() if measure.name == evaluator.main)


def _change(outputs: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]) -> float:
    """Mean absolute difference as a share of the mean depth."""
    shares = [np.abs(a - b).mean() / max(float(np.abs(b).mean()), 1e-12) for a, b in zip(outputs, reference)]
    return float(np.mean(shares))


def _panels(image: Pixels, result: base.Result, truth: NDArray[Any], levels: Sequence[LevelSpec]) -> list[base.Panel]:
    """Photo, answer and truth; metres have the same colours in both."""
    assert isinstance(result, Depth)
    size, known = image.shape[:2], truth[truth > 0].astype(np.float64)
    low, high = (float(x) for x in np.percentile(known, (_LOW, _HIGH))) if len(known) else (None, None)
    if low is None or high is None or low >= high or not result.metric:
        low = high = None
    scale = f" ({low:.2f} to {high:.2f} m)" if low is not None else ""
    answer = Depth(result.resized(*size), result.metric).colored(low, high)
    wanted = depth_pictures.colored(nearest(truth, (size[0], size[1])).astype(np.float32), low, high)
    return [("photo", image), (f"depth{scale}", answer), (f"truth{scale}", wanted)]


def _extras(wishes: base.Wishes, config: Any) -> Mapping[str, base.Extra]:
    """The values, at the photo's size: millimetres as PNG, or float32 as .npy, which relative depth always is."""
    metric = config.kind == "metric"
    camera = next((name for name in ("fov", "intrinsics") if getattr(wishes, name) is not None), None)
    if wishes.ply and not metric:
        raise UsageError("ply needs metres; this artifact's depth is relative.", "Leave it out.")
    if camera and not wishes.ply:
        raise UsageError(f"{camera} is the camera of the points that ply writes.", "Add --ply, or leave it out.")
    if wishes.fov is not None and wishes.intrinsics is not None:
        raise UsageError("fov and intrinsics both state the camera.", "Give one of them.")
    fov = FOV if wishes.fov is None else wishes.fov
    depth_pictures.intrinsics_of(1, 1, fov)  # refuses what is no angle before any work is done
    if wishes.intrinsics and not (min(wishes.intrinsics[:2]) > 0 and np.isfinite(wishes.intrinsics).all()):
        raise UsageError(f"intrinsics {wishes.intrinsics} are no camera.", "Give fx fy cx cy in pixels of the photo.")
    found = {".depth.npy": _save} if wishes.npy or not metric else {".depth.png": _save_png}
    points = partial(_save_points, intrinsics=wishes.intrinsics, fov=fov)
    return {**found, **({".ply": points} if wishes.ply else {})}


def _save(path: Path, result: Depth, photo: Pixels) -> str:
    np.save(path, result.resized(*photo.shape[:2]))
    return ""


def _save_png(path: Path, result: Depth, photo: Pixels) -> str:
    beyond = depth_pictures.write_depth_png(path, result.resized(*photo.shape[:2]))
    return "depths above 65.535 m are stored as 65535 millimetres in PNG; --npy keeps them" if beyond else ""


def _save_points(path: Path, result: Depth, photo: Pixels, intrinsics: Intrinsics | None, fov: float) -> str:
    result.to_ply(path, photo, intrinsics, fov)
    return ""


def _signs(result: Depth, photo: Pixels) -> tuple[dict[str, float], NDArray[np.float64]]:
    deciles = np.maximum(np.percentile(result.depth, np.arange(10, 100, 10)).astype(np.float64), 1e-6)
    values = {"middle": float(deciles[4]), "spread": float(np.log2(deciles[-1] / deciles[0]))}
    return values, np.log(deciles)


SIGNS = base.Signs(
    {"middle": "median of the map", "spread": "octaves between its nearest and farthest tenth"},
    "the logarithms of the map's deciles",
    _signs,
)
DEPTH = base.Task(
    name="depth",
    purpose="estimates the depth of every pixel of a photograph",
    config=DepthConfig,
    layouts=("depth", "scenes7", "kitti", "nyu", "clean"),
    geometry="maps",
    degrades=False,
    labelled=False,
    metrics=METRICS,
    # Shares of a golden's mean depth; goldens are rounded to a millimetre. metric_drop in AbsRel.
    tolerances={
        "fp32": {"max_abs": 0.05, "mean_abs": 0.003, "min_cosine": 0.9999, "metric_drop": 0.001},
        "fp16": {"max_abs": 0.25, "mean_abs": 0.01, "min_cosine": 0.999, "metric_drop": 0.004},
        "bf16": {"max_abs": 1.0, "mean_abs": 0.04, "min_cosine": 0.99, "metric_drop": 0.015},
        "int8": {"mean_abs": 0.1, "metric_drop": 0.03},
    },
    relative=True,
    # A photo packs to about 0.9 of its 8 bits, a truth to 12 bits, an output of rounded floats to 16.
    golden=base.GoldenPolicy(
        count=4, max_bytes=3_000_000, bytes_per_pixel=3 * 0.9 + 3.5, round_to=1 / 1024, kept=_kept, fault=_fault
    ),
    protocol="valid pixels, prediction resized to the ground truth, mean over images",
    check_preprocess=_check,
    outputs=_outputs,
    finish=_finish,
    evaluator=lambda levels, condition: DepthEvaluator(condition),
    truth=_truth,
    baseline=_baseline,
    change=_change,
    change_limits=(0.05, 0.005),
    panels=_panels,
    writes="picture",
    extras=_extras,
    example="model(image).depth  # (H, W) float32 at the model's size; .resized(height, width), .colored()",
    plain='np.save("depth.npy", outputs[0][0])  # (height, width) float32 at the model\'s size\n',
    partner=base.Partner(
        "depth map", read_depth, same_view, lambda depth, factor: depth / np.float32(factor), doctor=" --depth {layout}"
    ),
    conditions=_conditions,
    follow=DepthStream,
    signs=SIGNS,
    start={
        "model": {"name": "pocketdepth"},
        "preprocess": {"resize": "stretch", "size": [240, 320]},
        "train": {"minutes": 60.0, "epochs": 200, "lr": 5e-4, "batch_size": 8, "ema": 0.99},
    },
)
