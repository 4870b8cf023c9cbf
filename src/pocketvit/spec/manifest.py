"""The manifest of an artifact: everything that is needed to run it and to judge it, as one versioned JSON document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pocketvit.spec.preprocess import Preprocess

SCHEMA_VERSION: Literal[1] = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the artifact beside the manifest."""

    path: str = Field(description="Name inside the artifact folder, no folders above it.")
    bytes: int
    sha256: str


class TensorSpec(_Strict):
    """An input or output of the model files."""

    name: str
    shape: list[int]
    dtype: str
    meaning: str = Field(description="Layout, range, unit and colour order in words.")


class Variant(_Strict):
    """One way to run the model: a file in a runtime at a precision."""

    runtime: str
    precision: str
    path: str = Field(description="The file that the runtime opens.")
    companions: list[str] = Field(default=[], description="Files the runtime reads beside it (OpenVINO's .bin).")
    metrics: dict[str, float] = Field(default={}, description="Metrics measured on this very variant, by name, on the data set of `metrics_on`.")


class LevelSpec(_Strict):
    """One level of the label hierarchy."""

    name: str
    labels: list[str]
    parents: list[int] | None = Field(default=None, description="For each class its parent in the level before; none for the first level.")


class LineageStep(_Strict):
    """One change to the model, kept or rejected by the gain gate, with what was measured before and after."""

    step: str
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


class MetricRow(_Strict):
    """A metric of one variant with the data it was measured on."""

    variant: str = Field(description="runtime:precision of the file that was run.")
    name: str
    value: float
    unit: str
    dataset: str
    split: str
    count: int = Field(description="Number of images.")
    protocol: str = ""


class BenchRow(_Strict):
    """A timing of one variant with its environment."""

    variant: str
    threads: int
    p50_ms: float
    p90_ms: float
    runs: int
    input_shape: list[int]
    includes: str = Field(description="What the time covers, e.g. 'pre + inference + post'.")
    environment: dict[str, Any] = {}


class Verification(_Strict):
    """What `verify` found when it last ran on this artifact."""

    passed: bool
    checks: list[dict[str, Any]] = []
    tool_version: str


class Licence(_Strict):
    """Terms of the weights and of the data they were trained on."""

    weights: str = "Apache-2.0"
    data: str = "not stated"


class Manifest(_Strict):
    """`manifest.json`. `levels` is set for classification and empty for restoration."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(default="0.1.0", pattern=r"^\d+\.\d+\.\d+$")
    task: Literal["restore", "classify"]
    architecture: dict[str, Any] = Field(default={}, description="Name and keyword arguments the model was built with.")
    levels: list[LevelSpec] = []
    preprocess: Preprocess
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    files: list[FileEntry]
    variants: list[Variant]
    default: str = Field(description="runtime:precision that `load` takes when no target is named.")
    main_metric: str
    tolerances: dict[str, dict[str, float]] = Field(default={}, description="By precision: max_abs and mean_abs on outputs, min_cosine, metric_drop.")
    lineage: list[LineageStep] = []
    metrics: list[MetricRow] = []
    benchmarks: list[BenchRow] = []
    verification: Verification | None = None
    licence: Licence = Licence()
    training: dict[str, Any] = Field(default={}, description="Data, images seen, minutes, machine and recipe of the training run.")


def json_schema() -> dict[str, Any]:
    """The JSON schema that is kept in docs/manifest.schema.json."""
    return Manifest.model_json_schema()
