"""The manifest of an artifact: everything that is needed to run it and to judge it, as one versioned JSON document."""

from __future__ import annotations

import itertools
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator

from pocketvit.errors import UsageError
from pocketvit.spec.hierarchy import LevelSpec as LevelSpec
from pocketvit.spec.preprocess import PIXELS, Preprocess
from pocketvit.spec.split import Split
from pocketvit.spec.target import CPU, variant_key
from pocketvit.spec.tasks import TASKS, config_of
from pocketvit.spec.tasks.base import TaskConfig
from pocketvit.spec.tasks.base import TensorSpec as TensorSpec
from pocketvit.spec.tasks.strength import Strength

SCHEMA_VERSION: Literal[1] = 1
VERSION_PATTERN = r"^\d+\.\d+\.\d+$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the artifact beside the manifest."""

    path: str = Field(description="Name inside the artifact folder, no folders above it.")
    bytes: int = Field(ge=0)
    sha256: str


class Memory(_Strict):
    """What runs of a file that takes any size need in memory beside the process that has it open."""

    fixed_mb: FiniteFloat = Field(ge=0, description="Of any run, in MB (1e6 bytes).")
    bytes_per_pixel: FiniteFloat = Field(gt=0, description="Of each pixel of the image or tile, its answer included.")


class Variant(_Strict):
    """One way to run the model: a file in a runtime at a precision."""

    runtime: str
    precision: str = Field(
        description="fp32, fp16, bf16, int8, int8-bf16, int8-dynamic, weights, cluster. What an int8 file leaves in "
        "float is computed in float32; of int8-bf16 in bf16. int8-dynamic finds the ranges of activations for each "
        "image. weights has weights of 8 or 4 bits; cluster computes in float32 with weights of few values."
    )
    path: str = Field(description="The file that the runtime opens; of a .pvw file what it decodes to.")
    companions: list[str] = Field(default=[], description="Files the runtime reads beside it (OpenVINO's .bin).")
    device: str = Field(default=CPU, description="Where it was proven; the file may run on other devices too.")
    varies: bool = Field(
        default=False,
        description="How long it takes depends on the image (early exits); `benchmarks` hold means over photos.",
    )
    metrics: dict[str, FiniteFloat] = Field(
        default={},
        description="Metrics measured on this very variant, by name; `metrics` of the manifest says on what.",
    )
    memory: Memory | None = Field(
        default=None, description="Of a file that takes any size, as measured: images larger than it allows are tiled."
    )

    @property
    def key(self) -> str:
        """Its name in ``default``, metrics and benchmarks: :func:`pocketvit.spec.target.variant_key`."""
        return variant_key(self.runtime, self.precision, self.device)


class CalibrationSet(_Strict):
    """Which training images a step was calibrated on."""

    images: int = Field(ge=0)
    sha256: str = Field(description="Over shape and bytes of each image as the model took it, in order.")


class LineageStep(_Strict):
    """One change to the model, kept or rejected by the gain gate, with what was measured before and after."""

    step: str
    stage: str = Field(default="", description="What the step changed: the network (`model`) or a file (`file`).")
    kept: bool
    reason: str
    metric_name: str
    metric_before: float | None = None
    metric_after: float | None = None
    latency_ms_before: float | None = None
    latency_ms_after: float | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    settings: dict[str, Any] = {}
    calibration: CalibrationSet | None = Field(
        default=None, description="Of a step that looks at images, e.g. to find the ranges of activations."
    )


class MetricRow(_Strict):
    """A metric of one variant with the data it was measured on."""

    variant: str = Field(description="runtime:precision of the file that was run.")
    name: str
    value: FiniteFloat
    unit: str
    dataset: str
    split: str
    count: int = Field(description="Number of images.")
    protocol: str = ""
    low: FiniteFloat | None = Field(default=None, description="Lower end of the 95 % interval of `value`.")
    high: FiniteFloat | None = None
    baseline: FiniteFloat | None = Field(
        default=None,
        description="The same metric of the best answer without a model: the input itself, the most frequent class.",
    )
    chosen_on: bool = Field(default=False, description="This data was also used to choose, so the value flatters.")


class BenchRow(_Strict):
    """A timing of one variant with its environment."""

    variant: str
    threads: int = Field(ge=1, le=4096)
    p50_ms: FiniteFloat
    p90_ms: FiniteFloat
    runs: int
    p50_low_ms: FiniteFloat | None = Field(default=None, description="Lower end of the 95 % interval of `p50_ms`.")
    p50_high_ms: FiniteFloat | None = None
    p90_high_ms: FiniteFloat | None = None
    input_shape: list[int]
    includes: str = Field(description="What the time covers, e.g. 'pre + inference + post'.")
    environment: dict[str, Any] = {}


class Verification(_Strict):
    """What `verify` found when it last ran on this artifact."""

    passed: bool
    checks: list[dict[str, Any]] = []
    tool_version: str

    @field_validator("checks")
    @classmethod
    def _checks_can_be_shown(cls, checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kinds = {"name": str, "passed": bool, "detail": str}
        for row in checks:
            for key, kind in kinds.items():
                if not isinstance(row.get(key), kind):
                    raise ValueError(f"every check needs {key} as {kind.__name__}")
        return checks


class Licence(_Strict):
    """Terms of the weights and of the data they were trained on."""

    weights: str = "Apache-2.0"
    data: str = "not stated"


class Manifest(_Strict):
    """`manifest.json`. `levels` is set for tasks with labels and empty for others."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(default="0.1.0", pattern=VERSION_PATTERN)
    task: str = Field(description="A row of the table of tasks: " + ", ".join(TASKS) + ".")
    settings: dict[str, Any] = Field(
        default={}, description="The recipe's `task` section: what differs from the task's defaults."
    )
    architecture: dict[str, Any] = Field(default={}, description="Name and keyword arguments the model was built with.")
    split: Split | None = Field(default=None, description="Of half a model: which, and how it goes with the other.")
    levels: list[LevelSpec] = Field(default=[], validate_default=True)
    preprocess: Preprocess
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    files: list[FileEntry]
    variants: list[Variant]
    default: str = Field(
        description="runtime:precision that was chosen. `load` takes it, or where `benchmarks` know this kind of "
        "processor a variant as good and faster, or the first one that the machine can run."
    )
    main_metric: str
    tolerances: dict[str, dict[str, float]] = Field(
        default={}, description="By precision: max_abs and mean_abs on outputs, min_cosine, metric_drop."
    )
    strength: Strength | None = Field(
        default=None,
        description="Range of `strength`, which scales the answer of each image; without it the task's own range.",
    )
    lineage: list[LineageStep] = []
    metrics: list[MetricRow] = []
    benchmarks: list[BenchRow] = []
    verification: Verification | None = None
    licence: Licence = Licence()
    training: dict[str, Any] = Field(
        default={}, description="Data, images seen, minutes, machine and recipe of training."
    )

    @property
    def is_head(self) -> bool:
        """Whether it is the head of a split model, which gives features and no answers."""
        return self.split is not None and self.split.is_head

    @property
    def takes(self) -> tuple[str, list[int], str]:
        """Name, shape and dtype of the one input of every file: pixels, or of a tail features."""
        if self.split is not None and not self.split.is_head:
            return self.split.features.name, self.split.features.shape, self.split.features.dtype
        return PIXELS, self.preprocess.input_shape, "uint8"

    @property
    def config(self) -> TaskConfig:
        """The task's section of the recipe that the model was trained with."""
        return config_of({**self.settings, "name": self.task})

    def text(self, row: MetricRow, count: int = 0) -> str:
        """A metric's value for people, with unit and interval; ``count`` photos are named where it is positive."""
        try:
            spec = TASKS[self.task].metric(row.name)
        except KeyError:  # of a version that measured something else
            return f"{row.value:.4g} {row.unit}".rstrip()
        return spec.text(row.value, row.low, row.high, count)

    def contract(self) -> str:
        """What the answers mean, as canonical JSON: task, labels with their tree, inputs and outputs with their units.

        ``golden.npz`` keeps it, so that ``verify`` notices where any of it was changed in the manifest.
        """
        parts = {"split"} if self.split is not None else set[str]()
        fields = self.model_dump(mode="json", include={"task", "levels", "inputs", "outputs"} | parts)
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    def gain(self, row: MetricRow) -> str:
        """What a metric gains over an answer without a model, for people; empty where that was not measured."""
        try:
            spec = TASKS[self.task].metric(row.name)
        except KeyError:
            return ""
        if row.baseline is None:
            return ""
        better = spec.loss(row.baseline, row.value)
        text = f"{spec.text(row.baseline)} without the model, gain {spec.text(better)}"
        return text if better > spec.default_drop else f"{text}. Warning: next to nothing is gained"

    # Checks of one field against those before it, not of the whole model, so that the error names the field.
    @field_validator("task")
    @classmethod
    def _task_is_known(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; this version knows {', '.join(TASKS)}")
        return task

    @field_validator("settings")
    @classmethod
    def _settings_are_the_tasks(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "task" in info.data:
            try:
                config_of({**settings, "name": info.data["task"]})
            except UsageError as error:
                raise ValueError(error.what.rstrip(".")) from error
        return settings

    @field_validator("architecture")
    @classmethod
    def _sizes_are_numbers(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        for key in ("macs", "parameters"):
            value = architecture.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
                raise ValueError(f"{key} is no count")
        return architecture

    @field_validator("levels")
    @classmethod
    def _levels_are_a_tree(cls, levels: list[LevelSpec], info: ValidationInfo) -> list[LevelSpec]:
        task, split = TASKS.get(info.data.get("task", "")), info.data.get("split")
        if split is not None and split.is_head:
            if levels:
                raise ValueError("a head has no levels: labels are its tail's")
        elif task is not None and (task.labelled or task.names_parts) != bool(levels):
            raise ValueError(f"{task.name} has no levels" if levels else f"{task.name} needs at least one level")
        for level in levels:
            if not level.labels:
                raise ValueError(f"level {level.name} has no labels")
        for above, level in itertools.pairwise(levels):
            parents = level.parents or []
            if len(parents) != len(level.labels) or not all(0 <= parent < len(above.labels) for parent in parents):
                raise ValueError(f"level {level.name}: every class needs a parent in level {above.name}")
        return levels

    @field_validator("strength")
    @classmethod
    def _task_has_a_strength(cls, strength: Strength | None, info: ValidationInfo) -> Strength | None:
        task = TASKS.get(info.data.get("task", ""))
        if strength is not None and task is not None and task.strength is None:
            raise ValueError(f"{task.name} has no strength")
        return strength

    @field_validator("outputs")
    @classmethod
    def _outputs_are_the_tasks(cls, outputs: list[TensorSpec], info: ValidationInfo) -> list[TensorSpec]:
        if not {"task", "settings", "split", "levels", "preprocess"} <= set(info.data):
            return outputs  # one of them is wrong, and that is what the error is about
        split = info.data["split"]
        if split is not None and split.is_head:
            if outputs != [split.features]:
                raise ValueError("the outputs of a head are its features and no others")
            return outputs
        config = config_of({**info.data["settings"], "name": info.data["task"]})
        specs = TASKS[info.data["task"]].outputs(info.data["levels"], info.data["preprocess"], config)
        wanted = {x.name: x for x in specs}
        for output in outputs:
            spec = wanted.get(output.name, output)
            if output.shape != spec.shape:
                raise ValueError(f"output {output.name} has shape {output.shape}, not {spec.shape}")
            if output.dtype != spec.dtype:
                raise ValueError(f"output {output.name} is {output.dtype}, not {spec.dtype}")
        if sorted(x.name for x in outputs) != sorted(wanted):
            raise ValueError(f"the outputs are {sorted(x.name for x in outputs)}, not {sorted(wanted)}")
        return outputs


def json_schema() -> dict[str, Any]:
    """The JSON schema that is kept in docs/manifest.schema.json."""
    return Manifest.model_json_schema()
