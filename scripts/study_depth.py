"""What each knob of a DPT buys, alone and together, in milliseconds and AbsRel: table and plot of docs/depth.md.

python scripts/study_depth.py [--minutes 6] [--data ../shared/data/scenes7] [--runs runs/study] [--only NAME ...]

The base is a DPT as published (384x384, hooks 2, 5, 8, 11, the class token projected, a decoder of width 256) on
ViT-Ti; each setting changes one knob, ``together`` several; the same for pocketdepth. Every setting is trained for the
same minutes of the clock (give it a quiet machine) on the frames of recipes/depth_scenes7.yaml, from ViT-Ti's ImageNet
weights where it has a ViT-Ti, exported, and all artifacts are timed in turns, from a decoded frame to a depth map of
its size. A run that is finished is not trained again; with --minutes 0 nothing is trained, finished runs are shown.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import pocketvit
from pocketvit.bench.load import machine_was, quiet
from pocketvit.bench.timing import interleave
from pocketvit.errors import PocketvitError
from pocketvit.export.artifact import complexity
from pocketvit.files import write_json, write_text
from pocketvit.models.trained import find_checkpoint
from pocketvit.runtimes.model import Model
from pocketvit.spec.environment import environment
from pocketvit.spec.images import read_image
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.target import Target
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.runs import FINISHED

RECIPE, DATA = "recipes/depth_scenes7.yaml", "../shared/data/scenes7"
WEIGHTS = "../shared/data/weights/vit_tiny_patch16_224.safetensors"
BEGIN, END = "<!-- study: scripts/study_depth.py writes from here -->", "<!-- study: to here -->"
FULL, SMALL = (384, 384), (192, 256)
PLAIN = {"hooks": [2, 5, 8, 11], "read": "project", "width": 256}


@dataclass(frozen=True)
class Setting:
    """One network of the study: what is changed from its base, in words and in options."""

    knob: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = FULL
    weights: str | None = WEIGHTS

    @property
    def slug(self) -> str:
        """Name of its run."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.model}-{self.knob}".lower()).strip("-")


def dpt(knob: str, size: tuple[int, int] = FULL, **options: Any) -> Setting:
    return Setting(knob, "dpt_tiny", PLAIN | options, size)


def pocket(knob: str, size: tuple[int, int] = SMALL, **options: Any) -> Setting:
    return Setting(knob, "pocketdepth", options, size)


SETTINGS = (
    dpt("base"),
    dpt("input 192x256", SMALL),
    dpt("hooks 1, 3, 5, 7; the four blocks behind removed", hooks=[1, 3, 5, 7]),
    dpt("one head in place of three", backbone_options={"num_heads": 1}),
    dpt("linear attention", backbone_options={"attention": "linear"}),
    dpt("class token ignored", read="ignore"),
    dpt("decoder width 64", width=64),
    dpt("decoder width 32", width=32),
    Setting("MobileNetV4-S in place of ViT-Ti, random weights", "dpt_mobilenet", {"width": 256}, weights=None),
    dpt("together", SMALL, hooks=[1, 3, 5, 7], read="ignore", width=64),
    Setting("MobileNetV4-S together", "dpt_mobilenet", {"width": 64}, SMALL, weights=None),
    pocket("base"),
    pocket("input 240x320", (240, 320)),
    pocket("hooks 2, 5; six blocks", hooks=[2, 5]),
    pocket("one head in place of three", num_heads=1),
    pocket("linear attention", attention="linear"),
    pocket("decoder a half", widths=[16, 32, 48, 64]),
    pocket("decoder ends at a quarter", widths=[64, 96, 128], branch=[0, 1], decoder=[1, 1, 1]),
    pocket("branch without blocks", branch=[0, 0, 0]),
    pocket("together", hooks=[2, 5], widths=[16, 32, 48, 64], branch=[0, 0, 0]),
    Setting("random weights", "pocketdepth", {}, SMALL, weights=None),
    Setting("as published, random weights", "dpt_large", {}, weights=None),
)


@dataclass(frozen=True)
class Row:
    """A finished setting."""

    setting: Setting
    parameters: int
    macs: int
    abs_rel: float
    delta1: float
    images: int
    artifact: Path


def recipe_of(setting: Setting, recipe: Path, data: Path, minutes: float) -> Recipe:
    """The recipe of scenes7 with the setting's network, size and start, and the minutes that all have."""
    base = load_recipe(recipe)
    places = {
        part: [path.replace(DATA, str(data)) for path in getattr(base.data, part)] for part in ("train", "val", "test")
    }
    train: dict[str, Any] = {"minutes": minutes, "epochs": 100_000, "teacher": None, "patience": None}
    if setting.model == "dpt_large":
        train["batch_size"] = 1
    options = {"name": setting.model, "options": setting.options, "weights": setting.weights}
    overrides = {f"data.{key}": value for key, value in places.items() if value}
    overrides |= {f"model.{key}": value for key, value in options.items()} | {"name": setting.slug}
    overrides |= {f"train.{key}": value for key, value in train.items()}
    return load_recipe(base, overrides | {"preprocess.size": list(setting.size), "preprocess.resize": "stretch"})


def metric(info: dict[str, Any], name: str) -> float:
    """A validation metric of a run, whatever stands behind its name; nan where there is none."""
    found = [value for key, value in info.get("metrics", {}).items() if key.partition("@")[0] == name]
    return float(found[0]) if found else float("nan")


def finish(setting: Setting, recipe: Path, data: Path, runs: Path, minutes: float) -> Row | None:
    """Train (or find) and export one setting. None: it is not trained, or cannot be, which is said."""
    folder, artifact = runs / setting.slug, runs / f"{setting.slug}-artifact"
    try:
        if not (folder / FINISHED).exists():
            if not minutes:
                return None
            pocketvit.train(recipe_of(setting, recipe, data, minutes), name=setting.slug, runs=str(runs))
        if not artifact.exists():
            pocketvit.export(str(folder), str(artifact), formats=("onnx", "openvino"), goldens=2)
        trained = load_checkpoint(find_checkpoint(folder))
    except PocketvitError as error:
        print(f"left out: {setting.model}, {setting.knob}: {error.what}")
        return None
    counts, info = complexity(trained), trained.info
    scores = metric(info, "abs_rel"), metric(info, "delta1")
    return Row(setting, counts["parameters"], counts["macs"], *scores, int(info.get("images_seen", 0)), artifact)


def engines(row: Row, threads: int) -> Iterator[tuple[str, Model]]:
    """The row's files, opened."""
    for runtime in ("onnxruntime", "openvino"):
        try:
            yield runtime, pocketvit.load(str(row.artifact), Target(runtime, "fp32", threads))
        except PocketvitError as error:
            print(f"left out: {row.setting.slug} in {runtime}: {error.what}")


def time_all(rows: Sequence[Row], frame: Path, seconds: float, threads: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Slug, engine -> timing of one decoded frame to its depth map, all in turns."""
    image = read_image(frame)
    calls: dict[str, Callable[[], object]] = {
        f"{row.setting.slug}\n{engine}": partial(model, image)
        for row in rows
        for engine, model in engines(row, threads)
    }
    found: dict[str, dict[str, dict[str, Any]]] = {row.setting.slug: {} for row in rows}
    for key, timing in interleave(calls, seconds=seconds, min_rounds=7, pause_ms=5).items():
        slug, _, engine = key.partition("\n")
        found[slug][engine] = timing.to_dict()
    return found


def fastest(times: dict[str, dict[str, Any]]) -> float:
    """p50 of the faster engine in ms."""
    return min((x["p50_ms"] for x in times.values()), default=float("nan"))


def table(rows: Sequence[Row], times: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown; speed-ups are against the base of the same network."""
    head = "| network | knob | M | GMACs | ORT ms | OpenVINO ms | times as fast | AbsRel | delta1 | images seen |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    bases = {row.setting.model: fastest(times[row.setting.slug]) for row in rows if row.setting.knob == "base"}
    for row in rows:
        setting, found = row.setting, times[row.setting.slug]
        base = bases.get("pocketdepth" if setting.model == "pocketdepth" else "dpt_tiny", float("nan"))
        cells = [f"{found[x]['p50_ms']:.1f}" if x in found else "-" for x in ("onnxruntime", "openvino")]
        lines.append(
            f"| {setting.model} | {setting.knob} | {row.parameters / 1e6:.2f} | {row.macs / 1e9:.2f} |"
            f" {cells[0]} | {cells[1]} | {base / fastest(found):.2f} | {row.abs_rel:.4f} | {row.delta1:.4f} |"
            f" {row.images:,} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Row], times: dict[str, dict[str, dict[str, Any]]], out: Path) -> None:
    """AbsRel against the faster engine's ms, numbered as the table's rows; each network in its colour."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = {"pocketdepth": "#0b7a4b", "dpt_tiny": "#2459a8", "dpt_mobilenet": "#c2410c", "dpt_large": "#7c3aed"}
    for number, row in enumerate(rows, 1):
        x, y = fastest(times[row.setting.slug]), row.abs_rel
        axes.scatter(x, y, color=colours[row.setting.model], s=30)
        axes.annotate(f"{number}", (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    for model in dict.fromkeys(row.setting.model for row in rows):
        axes.scatter([], [], color=colours[model], label=model)
    axes.axvline(1000 / 30, color="#6b7685", linewidth=1, linestyle="--", label="30 frames a second")
    axes.set(xscale="log", xlabel="ms from frame to depth map (faster engine, fp32)", ylabel="AbsRel, frames 400-498")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def insert(page: Path, text: str) -> None:
    """Put the study between its marks on a page; a page without them gets them at its end."""
    old = page.read_text(encoding="utf-8") if page.exists() else "# Monocular depth\n"
    block = f"{BEGIN}\n{text}\n{END}"
    if BEGIN in old and END in old:
        before, after = old.partition(BEGIN)[0], old.partition(END)[2]
        write_text(page, f"{before}{block}{after}")
    else:
        write_text(page, f"{old.rstrip()}\n\n## What each knob buys\n\n{block}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="of training for each setting; 0 trains none")
    parser.add_argument("--data", type=Path, default=Path(DATA))
    parser.add_argument("--recipe", type=Path, default=Path(RECIPE), help="what all settings have in common")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--only", nargs="+", default=[], help="settings whose run's name holds any of these texts")
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing, for all settings together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, default=Path("docs/depth.md"))
    given = parser.parse_args()
    wanted = [x for x in SETTINGS if not given.only or any(text in x.slug for text in given.only)]
    rows = [row for x in wanted if (row := finish(x, given.recipe, given.data, given.runs, given.minutes))]
    if not rows:
        raise SystemExit("no setting is trained; give --minutes.")
    busy = quiet(0)
    frames = sorted(given.data.glob("*.color.*"))
    times = time_all(rows, frames[-1], given.seconds, given.threads)
    picture = given.page.parent / "img" / "depth_study.png"
    plot(rows, times, picture)
    # What a run really had: those of an earlier call may have had other minutes than this one.
    spent = sorted({load_recipe(given.runs / row.setting.slug / "recipe.yaml").train.minutes or 0 for row in rows})
    about = (
        f"Trained for {' or '.join(f'{x:g}' for x in spent)} minutes each; {given.threads} threads, fp32;"
        f" {machine_was(busy)}; `{environment()['cpu']}`."
    )
    text = (
        f"{table(rows, times)}\n\n{about}\n\n![AbsRel against time; numbers are the table's rows](img/{picture.name})"
    )
    insert(given.page, text)
    document = [{**asdict(row), "artifact": str(row.artifact), "times": times[row.setting.slug]} for row in rows]
    write_json(given.runs / "study.json", {"rows": document, "environment": environment(), "busy": busy})
    print(f"{text}\n\n{json.dumps(environment())}")


if __name__ == "__main__":
    main()
