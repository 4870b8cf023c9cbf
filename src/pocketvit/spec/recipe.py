"""The recipe: one YAML file, or the same fields in Python, that states everything a run needs.

Every field can be overridden on the command line (``--train.epochs 3``). Unknown keys are errors that name the nearest
valid one; fields are checked for type and for impossible combinations when the recipe is read.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import types
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from pocketvit.errors import UsageError, did_you_mean
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.degradation import BlurConfig, CameraConfig, CorrelatedConfig, MixtureConfig
from pocketvit.spec.devices import ContactConfig, device_of
from pocketvit.spec.manifest import NAME_PATTERN
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.target import THREADS, Target
from pocketvit.spec.tasks import TASKS, config_document, config_of
from pocketvit.spec.tasks.base import TaskConfig as TaskConfig
from pocketvit.spec.typed import Range, check_finite, check_ordered, check_ranges, short, strict
from pocketvit.spec.yamlfile import read_yaml

Prefer = Literal["quality", "speed", "size"]


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise the ``UsageError`` that names ``key`` unless ``ok``; conditions are written so that nan fails them."""
    if not ok:
        raise UsageError(f"{key} must {rule}, not {short(value)}.", "Correct the recipe or the option.")


DISTILL = ("logits", "hard", "features", "attention")
"""Kinds of distillation."""


def check_distill(section: str, kinds: tuple[str, ...]) -> None:
    """Raise the ``UsageError`` that names the first kind that there is not, or says that there is none at all."""
    for kind in kinds or ("",):
        if kind not in DISTILL:
            todo = did_you_mean(kind, DISTILL, f"Take one or more of {', '.join(DISTILL)}.")
            raise UsageError(f"{section}.distill {short(kind)} is unknown.", todo)


MANY, YEAR = 1_000_000, 525_600
"""More than anybody means: of things counted; of minutes."""
_SHARE, _BELOW_ONE, _INSIDE = Range(0, 1), Range(0, 1, below=True), Range(0, 1, above=True, below=True)
SIDE = Range(1, 8192)
"""Of pictures that are made whole in memory, in pixels."""
_DATA = {
    **{"val_share": _INSIDE, "sigma": Range(0, 255), "eval_sigma": Range(0, 255), "shot": _SHARE},
    **{"patch": Range(8, 4096), "patches_per_image": Range(1, 100_000), "workers": Range(0, 256)},
    **{"depth_unit": Range(0, 1000, above=True)},
}
_TRAIN = {
    **{"epochs": Range(0, MANY), "batch_size": Range(1, 65_536), "accumulate": Range(1, 65_536)},
    **{"lr": Range(0, 100, above=True), "weight_decay": Range(0, 100), "betas": _BELOW_ONE, "warmup": _BELOW_ONE},
    **{"min_lr": _SHARE, "clip_norm": Range(0, 1e6, above=True), "ema": _INSIDE, "jitter": _BELOW_ONE},
    **{"crop_scale": Range(0, 1, above=True), "randaugment_magnitude": Range(0, 30), "patience": Range(1, MANY)},
    **{"validate_every": Range(1, MANY), "checkpoint_minutes": Range(0, YEAR, above=True)},
    **{"checkpoint_steps": Range(1, 1e9), "minutes": Range(0, YEAR, above=True), "distill_weight": _SHARE},
    **{"distill_temperature": Range(0, 1000, above=True), "threads": THREADS, "seed": Range(0, 2**32 - 1)},
}
_COMPRESS = {
    **{"calibration_images": Range(1, MANY), "max_float_layers": Range(0, MANY)},
    **{"min_speedup": Range(0, 1000, above=True), "min_shrink": Range(0, 1000, above=True)},
    "chains": Range(0, 10_000),
}
_SEARCH = {
    **{"sizes": SIDE, "trials": Range(1, 1000), "rung_epochs": Range(1, MANY), "eval_images": Range(1, 1e9)},
    **{"timing_seconds": Range(0, 3600, above=True), "quiet_seconds": Range(0, 86_400)},
}


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they become samples."""

    train: tuple[str, ...] = ()
    """Folders or list files with training data; several are joined."""
    val: tuple[str, ...] = ()
    """Validation data; empty splits off ``val_share`` of the training data, stratified."""
    test: tuple[str, ...] = ()
    """Test data, scored once and never used to choose; empty has none."""
    layout: str = "clean"
    """``clean``: photos, noise is added; ``pairs``: noisy/ + clean/ or *_real + *_mean; ``classes``: a folder for each;
    ``list``: path, fine, coarse; ``sidd``; ``gopro``; ``depth``: photos with depth maps beside them; ``scenes7``;
    ``masks``: images/ + masks/; ``coco``, ``yolo``, ``kitti-objects``: photos with boxes."""
    val_layout: str | None = None
    """Layout of ``val`` and ``test`` where it is another one: photos to train on, real pairs to validate on."""
    class_names: str | None = None
    """CSV with columns for fine name, fine id, coarse name, coarse id (``list`` layout), or name, id (``masks``)."""
    val_share: float = 0.1
    """Share split off for validation where ``val`` is empty."""
    noise: Literal["none", "gaussian", "poisson", "correlated", "camera", "mixture"] = "gaussian"
    """Synthetic noise of the ``clean`` layout; ``poisson`` adds shot noise to Gaussian read noise, ``correlated`` is
    smoothed, ``camera`` goes through a camera's processing, ``mixture`` draws one of them for each sample."""
    sigma: tuple[float, float] = (25.0, 25.0)
    """Range of the Gaussian standard deviation on the 0..255 scale, drawn for each crop."""
    sigma_spacing: Literal["linear", "log"] = "linear"
    """How it is drawn: uniformly, or uniformly in its logarithm, which sees more of the weak noise (``sigma`` > 0)."""
    shot: tuple[float, float] = (0.0, 0.02)
    """Range of the shot-noise gain (variance per unit of signal in [0, 1]), uniform per crop (``poisson``)."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    correlated: CorrelatedConfig = field(default_factory=CorrelatedConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    blur: BlurConfig = field(default_factory=BlurConfig)
    patch: int = 64
    """Side of the training crops in pixels (tasks whose answer has the photo's pixels)."""
    patches_per_image: int = 1
    """Crops taken from each image per epoch."""
    eval_sigma: tuple[float, ...] = (15.0, 25.0, 50.0)
    """Noise levels of the validation metric (``clean`` layout); the main metric is at the middle one."""
    protocol: tuple[str, ...] = ()
    """How answers are scored, by name, the main one first, where a task has several ways; empty takes what goes with
    the layout."""
    depth_unit: float | None = None
    """Metres of one stored step of the maps beside photos (0.001: millimetres) where that is not the layout's own."""
    workers: int = 0
    """Loader processes; 0 loads in the training process. Samples do not depend on this number."""

    def layout_of(self, split: str) -> str:
        """Layout of ``train``, ``val`` or ``test``."""
        return self.val_layout or self.layout if split != "train" else self.layout

    def __post_init__(self) -> None:
        layouts = list(dict.fromkeys(layout for task in TASKS.values() for layout in task.layouts))
        for key, layout in {"layout": self.layout, "val_layout": self.val_layout or self.layout}.items():
            if layout not in layouts:
                todo = did_you_mean(layout, layouts, f"Take one of {', '.join(layouts)}.")
                raise UsageError(f"data.{key} {short(layout)} is unknown.", todo)
        if self.val_layout and not self.val:
            raise UsageError("data.val_layout is given without data.val.", "Name the validation data too.")
        check_ranges("data", self, _DATA)
        for part in ("train", "val", "test"):  # the empty path would be the current folder
            _require(
                all(map(str.strip, getattr(self, part))), f"data.{part}", getattr(self, part), "name no empty path"
            )
        check_ordered("data", self, ("sigma", "shot"))
        if self.sigma_spacing == "log":
            _require(self.sigma[0] > 0, "data.sigma", self.sigma, "start above 0 where data.sigma_spacing is log")
        _require(bool(self.eval_sigma), "data.eval_sigma", self.eval_sigma, "hold at least one noise level")


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture, from which weights."""

    name: str = "vit_tiny_patch16_224"
    """A row of the variants table (``pocketvit.models.VARIANTS``) or ``timm:<name>``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that override the row, e.g. ``{pool: gap}``."""
    weights: str | None = None
    """Start from a .safetensors file (names of timm or torchvision too), a checkpoint, a shipped artifact's name, or
    pretrained weights of timm: ``timm``, ``timm:<name>``; for a DPT ``hf:ORG/NAME`` or a folder of transformers."""

    def __post_init__(self) -> None:
        check_finite("model.options", self.options)


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained."""

    epochs: int = 10
    """0 takes the start weights as they are."""
    batch_size: int = 32
    accumulate: int = 1
    """Batches whose gradients are summed before a step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    """Share of all steps during which the rate rises linearly."""
    min_lr: float = 0.0
    """Rate at the end, as a share of ``lr``."""
    clip_norm: float | None = 1.0
    ema: float | None = None
    """Decay of the exponential moving average of the weights, which is then what is evaluated and kept."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "auto"
    """``auto`` is bf16 where the processor has bf16 instructions, else fp32. fp16 needs a GPU."""
    channels_last: bool = True
    compile: bool = False
    """Compile the model with torch.compile."""
    augment: Literal["none", "flip", "crop", "randaugment"] = "crop"
    """``crop``: random resized crop, flip and colour jitter; ``randaugment`` adds RandAugment. Crops of photo and truth
    (restoration) are flipped and turned unless ``none``; of photo and map together they keep the photo's aspect."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area range of the random resized crop."""
    jitter: float = 0.2
    """Strength of brightness, contrast and saturation jitter."""
    randaugment_magnitude: int = 2
    patience: int | None = None
    """Stop after this many epochs without a better validation metric."""
    validate_every: int = 1
    """Epochs between validations."""
    checkpoint_minutes: float = 5.0
    """Least minutes between ``last`` checkpoints within an epoch."""
    checkpoint_steps: int | None = None
    """Write ``last`` every so many steps instead."""
    minutes: float | None = None
    """Stop after so many minutes of training, with the schedule ending there instead of at ``epochs``."""
    teacher: str | None = None
    """Checkpoint or run folder of a teacher; its answers become part of the loss."""
    distill: tuple[str, ...] = ("logits",)
    """What is taken from the teacher: ``logits`` (its answers); ``hard`` (the classes it decides for); ``features`` or
    ``attention`` behind each block, of a teacher of the same architecture. Several are added."""
    distill_weight: float = 0.5
    distill_temperature: float = 2.0
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges("train", self, _TRAIN)
        check_ordered("train", self, ("crop_scale",))
        check_distill("train", self.distill)


@dataclass(frozen=True)
class CompressConfig:
    """Which steps are tried behind the gain gate."""

    steps: tuple[str | dict[str, Any] | list[str | dict[str, Any]], ...] = ("int8", "bf16")
    """Applied in order in each runtime that has them; each a name, ``name: {setting: value}``, or, where ``chains`` are
    searched, a list of such, of which a chain has one or none."""
    chains: int = 0
    """Search over at most so many chains in each runtime: each step or left out, one of each list; those that retrain
    come last. 0 carries out the steps as they stand."""
    alone: bool = False
    """Also carry out each step by itself on the float file, so that the report tells what it is worth alone."""
    calibration_images: int = 64
    """Training images used for calibration and sensitivity ranking; never validation images."""
    min_speedup: float = 1.03
    """A step stays if its p50 is at least so many times better, or its file ``min_shrink`` times smaller."""
    min_shrink: float = 1.5
    max_float_layers: int | None = None
    """At most so many of the ranked layers are put back in float; ``None`` tries all."""
    library_default: bool = True
    """Also build, score and report the library's default static int8, as a rejected candidate to compare with."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the steps, without their settings."""
        every = [each for entry in self.steps for each in (entry if isinstance(entry, list) else [entry])]
        return tuple(step if isinstance(step, str) else str(next(iter(step), "")) for step in every)

    def __post_init__(self) -> None:
        check_ranges("compress", self, _COMPRESS)
        check_finite("compress.steps", self.steps)
        if not self.chains and any(isinstance(entry, list) for entry in self.steps):
            what = "compress.steps holds a list of alternatives, and no chains are searched."
            raise UsageError(what, "Set compress.chains, e.g. to 16, or name one step of the list.")


@dataclass(frozen=True)
class SearchConfig:
    """How ``fit`` looks for candidates."""

    models: tuple[str, ...] = ()
    """Variants to consider; empty takes only ``model.name``."""
    sizes: tuple[int, ...] = ()
    """Input or tile sizes to consider, of the shorter side where ``preprocess.size`` is not square; empty takes only
    that size."""
    runtimes: tuple[str, ...] = ("onnxruntime", "openvino")
    trials: int = 4
    """At most so many surviving models are trained."""
    rung_epochs: int = 1
    """Epochs of the first rung of successive halving; survivors train on to ``train.epochs``."""
    prefer: Prefer = "quality"
    """What decides first among files that meet budget and floor; equals go to the faster, then to the smaller one."""
    timing_seconds: float = 2.0
    """Seconds of timing for each candidate."""
    quiet_seconds: float = 30.0
    """How long a busy machine is waited for before times are taken that decide; what kept it busy is reported."""
    eval_images: int | None = None
    """Validation images used to score exported files; ``None`` takes all."""

    def __post_init__(self) -> None:
        check_ranges("search", self, _SEARCH)
        _require(bool(self.runtimes), "search.runtimes", self.runtimes, "name at least one runtime")


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs."""

    data: DataConfig = DataConfig()
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=lambda: config_of({}))
    """An instance of its task's own section (``Task.config``)."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    train: TrainConfig = TrainConfig()
    compress: CompressConfig = CompressConfig()
    budget: Budget = field(default_factory=Budget)
    floor: Floor = field(default_factory=Floor)
    target: Target = field(default_factory=lambda: Target("any", "any"))
    """``any`` leaves the runtime or the precision to fit, which then tries those of ``search`` and ``compress``. As one
    text too: ``onnxruntime:int8:2``, ``phone``."""
    contact: ContactConfig = field(default_factory=ContactConfig)
    """Where a device that is not of this machine finds it."""
    search: SearchConfig = SearchConfig()
    name: str = "artifact"
    """Name of the artifact."""
    licence_data: str = "not stated"
    """Terms of the training data, copied into manifest and card."""

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            what = f"name {short(self.name)} cannot name an artifact."
            raise UsageError(what, "Take letters, digits, dots, dashes and underscores, with a letter or digit first.")
        wanted = self.target.precision
        if wanted not in ("any", "fp32", *self.compress.names):
            what = f"target.precision {wanted} is not among compress.steps {short(self.compress.names)}."
            raise UsageError(what, f"Add {wanted} to compress.steps, or leave target.precision at any.")
        if self.budget.memory_mb is not None and device_of(self.target.device) is not None:
            what = f"budget.memory_mb cannot be held on a {self.target.device}: it does not tell its memory."
            raise UsageError(what, "Leave it out; budget.size_mb limits the file.")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as written to ``recipe.yaml`` in the run folder."""
        document: dict[str, Any] = TypeAdapter(Recipe).dump_python(self, mode="json")
        return document | {"task": config_document(self.task)}


def load_recipe(source: str | Path | Recipe | dict[str, Any] | None, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe and override fields.

    Args:
        source: YAML file, its content, a recipe, or ``None`` for the defaults.
        overrides: nested (``{"budget": {"latency_ms": 33}}``) or dotted (``{"budget.latency_ms": 33}``) fields;
            dataclasses too.

    Raises:
        UsageError: file missing, no YAML, an unknown key, a value of the wrong type, an impossible combination.
    """
    document: dict[str, Any] = {}
    if isinstance(source, Recipe):
        document = source.to_dict()
    elif source is not None:
        document = copy.deepcopy(source) if isinstance(source, dict) else read_yaml(Path(source))
    for key, value in (overrides or {}).items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(document, value)
    task = config_of(document.pop("task", None) or {})
    if isinstance(document.get("target"), str):
        document["target"] = asdict(Target.parse(document["target"]))
    _check_keys(document, Recipe, "")
    return dataclasses.replace(strict(Recipe, document), task=task)


def flat(overrides: dict[str, Any]) -> dict[str, Any]:
    """The fields that overrides give, by dotted name, however they are written."""
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        nested = isinstance(value, dict) and "." not in key
        found |= {f"{key}.{field}": each for field, each in value.items()} if nested else {key: value}
    return found


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "options":
            _merge(into[key], value)
        else:  # a copy: what is merged into it later must not reach the caller's dict
            into[key] = copy.deepcopy(value)


def _dataclass_of(annotation: Any) -> type | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((t for t in options if dataclasses.is_dataclass(t) and isinstance(t, type)), None)


def _check_keys(document: dict[str, Any], schema: type, prefix: str) -> None:
    hints = typing.get_type_hints(schema)
    for key, value in document.items():
        if key not in hints:
            todo = did_you_mean(key, hints, f"Known keys: {', '.join(hints)}.", prefix + "{}")
            raise UsageError(f"unknown key {prefix}{str(key)[:60]}.", todo)
        nested = _dataclass_of(hints[key])
        if nested is not None and isinstance(value, dict):
            _check_keys(value, nested, f"{prefix}{key}.")
