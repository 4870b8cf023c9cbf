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

import yaml
from pydantic import TypeAdapter, ValidationError

from pocketvit.errors import UsageError, did_you_mean
from pocketvit.files import read_text
from pocketvit.spec.budget import Budget, Floor
from pocketvit.spec.manifest import NAME_PATTERN
from pocketvit.spec.preprocess import Preprocess
from pocketvit.spec.target import Target
from pocketvit.spec.tasks import TASKS, config_document, config_of
from pocketvit.spec.tasks.base import TaskConfig as TaskConfig

Prefer = Literal["quality", "speed", "size"]


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise the ``UsageError`` that names ``key`` unless ``ok``; conditions are written so that nan fails them."""
    if not ok:
        raise UsageError(f"{key} must {rule}, not {value}.", "Correct the recipe or the option.")


def _at_least(section: str, settings: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value is None or value >= least, f"{section}.{name}", value, f"be at least {least}")


def _positive(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value is None or value > 0, f"{section}.{name}", value, "be positive")


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
    ``list``: path, fine, coarse; ``sidd``; ``gopro``."""
    class_names: str | None = None
    """CSV with columns for fine name, fine id, coarse name, coarse id (``list`` layout)."""
    val_share: float = 0.1
    """Share split off for validation where ``val`` is empty."""
    noise: Literal["none", "gaussian", "poisson"] = "gaussian"
    """Synthetic noise of the ``clean`` layout; ``poisson`` adds shot noise to Gaussian read noise."""
    sigma: tuple[float, float] = (25.0, 25.0)
    """Range of the Gaussian standard deviation on the 0..255 scale, uniform per crop."""
    shot: tuple[float, float] = (0.0, 0.02)
    """Range of the shot-noise gain (variance per unit of signal in [0, 1]), uniform per crop (``poisson``)."""
    patch: int = 64
    """Side of the training crops in pixels (tasks whose answer has the photo's pixels)."""
    patches_per_image: int = 1
    """Crops taken from each image per epoch."""
    eval_sigma: tuple[float, ...] = (15.0, 25.0, 50.0)
    """Noise levels of the validation metric (``clean`` layout); the main metric is at the middle one."""
    workers: int = 0
    """Loader processes; 0 loads in the training process. Samples do not depend on this number."""

    def __post_init__(self) -> None:
        layouts = list(dict.fromkeys(layout for task in TASKS.values() for layout in task.layouts))
        if self.layout not in layouts:
            todo = did_you_mean(self.layout, layouts, f"Take one of {', '.join(layouts)}.")
            raise UsageError(f"data.layout {self.layout!r} is unknown.", todo)
        if not 0 < self.val_share < 1:
            raise UsageError(f"data.val_share {self.val_share} must lie between 0 and 1.", "0.1 is usual.")
        for name, (low, high) in {"sigma": self.sigma, "shot": self.shot}.items():
            if not 0 <= low <= high:
                raise UsageError(f"data.{name} {(low, high)} is no range.", "Give low and high, 0 <= low <= high.")
        defined = bool(self.eval_sigma) and all(sigma >= 0 for sigma in self.eval_sigma)
        rule = "hold at least one noise level and none below 0"
        _require(defined, "data.eval_sigma", self.eval_sigma, rule)
        if self.patch < 8 or self.patches_per_image < 1 or self.workers < 0:
            what = "data.patch must be at least 8, data.patches_per_image 1 and data.workers 0."
            raise UsageError(what, "Correct the recipe.")


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture, from which weights."""

    name: str = "vit_tiny_patch16_224"
    """A row of the variants table (``pocketvit.models.VARIANTS``) or ``timm:<name>``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that override the row, e.g. ``{pool: gap}``."""
    weights: str | None = None
    """Start from a .safetensors file (timm's names too), a checkpoint, a shipped artifact's name, or ``timm``."""


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
    (restoration) are flipped and turned unless ``none``."""
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
    distill_weight: float = 0.5
    distill_temperature: float = 2.0
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            what = f"train.epochs must not be negative, not {self.epochs}."
            raise UsageError(what, "0 takes the start weights as they are.")
        _at_least("train", self, 1, "batch_size", "accumulate", "validate_every")
        _at_least("train", self, 1, "patience", "checkpoint_steps", "threads")
        _at_least("train", self, 0, "seed", "randaugment_magnitude", "weight_decay")
        _positive("train", self, "clip_norm", "checkpoint_minutes", "minutes", "distill_temperature")
        _require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "lie in [0, 1)")
        _require(0 <= self.min_lr <= 1, "train.min_lr", self.min_lr, "lie in [0, 1]")
        _require(0 <= self.jitter < 1, "train.jitter", self.jitter, "lie in [0, 1)")
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, "train.crop_scale", (low, high), "be low and high with 0 < low <= high <= 1")
        if not self.lr > 0 or not 0 <= self.warmup < 1 or not 0 <= self.distill_weight <= 1:
            what = "train.lr must be positive, train.warmup in [0, 1), train.distill_weight in [0, 1]."
            raise UsageError(what, "Correct the recipe.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"train.ema {self.ema} must lie between 0 and 1.", "0.999 is usual.")


@dataclass(frozen=True)
class CompressConfig:
    """Which steps are tried behind the gain gate."""

    steps: tuple[str | dict[str, Any], ...] = ("int8", "bf16")
    """Applied in order in each runtime that has them; each a name, or ``name: {setting: value}``."""
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
        return tuple(step if isinstance(step, str) else str(next(iter(step), "")) for step in self.steps)

    def __post_init__(self) -> None:
        _at_least("compress", self, 1, "calibration_images")
        _at_least("compress", self, 0, "max_float_layers")
        _positive("compress", self, "min_speedup", "min_shrink")


@dataclass(frozen=True)
class SearchConfig:
    """How ``fit`` looks for candidates."""

    models: tuple[str, ...] = ()
    """Variants to consider; empty takes only ``model.name``."""
    sizes: tuple[int, ...] = ()
    """Input or tile sizes to consider; empty takes only ``preprocess.size``."""
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
        _at_least("search", self, 1, "trials", "rung_epochs", "eval_images")
        _positive("search", self, "timing_seconds")
        _at_least("search", self, 0, "quiet_seconds")
        _require(all(size >= 1 for size in self.sizes), "search.sizes", self.sizes, "be positive")
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
    """``any`` leaves the runtime or the precision to fit, which then tries those of ``search`` and ``compress``."""
    search: SearchConfig = SearchConfig()
    name: str = "artifact"
    """Name of the artifact."""
    licence_data: str = "not stated"
    """Terms of the training data, copied into manifest and card."""

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            what = f"name {self.name!r} cannot name an artifact."
            raise UsageError(what, "Take letters, digits, dots, dashes and underscores, with a letter or digit first.")
        wanted = self.target.precision
        if wanted not in ("any", "fp32", *self.compress.names):
            what = f"target.precision {wanted} is not among compress.steps {list(self.compress.names)}."
            raise UsageError(what, f"Add {wanted} to compress.steps, or leave target.precision at any.")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as written to ``recipe.yaml`` in the run folder."""
        document: dict[str, Any] = TypeAdapter(Recipe).dump_python(self, mode="json")
        return document | {"task": config_document(self.task)}


MAX_RECIPE_BYTES = 10_000_000


def load_recipe(source: str | Path | Recipe | None, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe and override fields.

    Args:
        source: YAML file, a recipe, or ``None`` for the defaults.
        overrides: nested (``{"budget": {"latency_ms": 33}}``) or dotted (``{"budget.latency_ms": 33}``) fields;
            dataclasses too.

    Raises:
        UsageError: file missing, no YAML, an unknown key, a value of the wrong type, an impossible combination.
    """
    document: dict[str, Any] = {}
    if source is not None:
        document = source.to_dict() if isinstance(source, Recipe) else _read_yaml(Path(source))
    for key, value in (overrides or {}).items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(document, value)
    task = config_of(document.pop("task", None) or {})
    _check_keys(document, Recipe, "")
    try:
        return TypeAdapter(Recipe).validate_python(document | {"task": task})
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})."
        raise UsageError(what, "Correct the recipe or the option.") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_text(path, MAX_RECIPE_BYTES))
    except OSError as error:
        what = f"{path}: cannot be read ({error.strerror})."
        raise UsageError(what, "Name a recipe, e.g. recipes/denoise_color.yaml.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"{path}: is not valid YAML ({' '.join(str(error).split())[:200]})."
        raise UsageError(what, "Correct the file.") from error
    if document is not None and not isinstance(document, dict):
        what = f"{path}: a recipe is a mapping of sections, not a {type(document).__name__}."
        raise UsageError(what, "See recipes/ for examples.")
    return document or {}


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
            raise UsageError(f"unknown key {prefix}{key}.", todo)
        nested = _dataclass_of(hints[key])
        if nested is not None and isinstance(value, dict):
            _check_keys(value, nested, f"{prefix}{key}.")
