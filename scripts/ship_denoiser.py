"""Make a shipped denoiser's artifact from a training run (or anew from the shipped checkpoint) and lay both in place.

python scripts/ship_denoiser.py runs/denoise_photo|denoise-photo --recipe recipes/denoise_photo.yaml
python scripts/ship_denoiser.py runs/denoise_color|denoise-color --recipe recipes/denoise_color.yaml

The recipe's name is the artifact's. Weights are rounded to float16 first, so that the checkpoint is small and all files
are of the same weights.

One ONNX file serves ONNX Runtime and OpenVINO (fp32 and bf16), which reads ONNX; int8 of each, and OpenVINO's int8 with
bf16 for the rest (the same two files), are added if the gain gate keeps them. Every variant is scored on all validation
images, timed side by side in one run and verified before it is copied.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from pocketvit.data.collections import load_splits
from pocketvit.export.artifact import create_artifact, make_golden, measure_memory
from pocketvit.export.built import Built
from pocketvit.fit.chains import shrink
from pocketvit.fit.decide import time_finalists, wait_for_quiet
from pocketvit.fit.gate import limits_of
from pocketvit.fit.measure import Measurer, make_measurer
from pocketvit.fit.rows import Row
from pocketvit.fit.tables import bench_rows, lineage, metric_rows
from pocketvit.models.trained import Trained, find_checkpoint, save_checkpoint
from pocketvit.spec.artifact import shipped_root
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import Licence
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.history import read_rows
from pocketvit.verify.command import verify

GOLDEN_BYTES = 1_000_000


def more(history: Path, metric: str, recipe: Path, name: str) -> str:
    """What each doubling of the images seen brought in this run, and how to train on."""
    rows = [row for row in read_rows(history) if metric in row]
    last = rows[-1]["images"]
    steps = [min(rows, key=lambda row: abs(row["images"] - share * last)) for share in (0.25, 0.5, 1.0)]
    curve = ", ".join(f"{row['images'] / 1000:.0f}k: {row[metric]:.2f}" for row in steps)
    how = f"pocketvit train recipes/{recipe.name} --model.weights {name}"
    return f"validation {metric} (dB) after so many patches: {curve}. To train on: {how}"


def describe(trained: Trained, history: Path, metric: str, recipe: Path, name: str) -> Trained:
    """The model with what its card should say of its training; a shipped checkpoint says it already."""
    if not history.exists():
        return trained
    machine = environment()
    where = f"{machine['cpu']}, {machine['cores']} cores, no GPU, shared with other work"
    return replace(
        trained, info={**trained.info, "machine": where, "what_more_would_bring": more(history, metric, recipe, name)}
    )


def build_rows(measurer: Measurer, folder: Path, origin: str) -> list[Row]:
    """The float file, the int8 files of both engines, and the float file in OpenVINO; kept ones timed in one run."""
    rows = [replace(row, origin=origin) for row in shrink(measurer, origin, folder / "files", print)]
    # OpenVINO's own float file, which int8 was made of, gives way to the ONNX file under the same names.
    rows = [row for row in rows if row.runtime != "openvino" or row.precision not in ("fp32", "bf16")]
    onnx = next(row.built for row in rows if not row.step and row.built)
    for precision in ("fp32", "bf16"):
        built = Built("openvino", precision, onnx.path)
        name, measures = f"{origin} {built.key}", measurer.score(built)
        size, reason = measurer.image.shape[:2], "the same ONNX file"
        shared = {"origin": origin, "main": measurer.main_metric, "image": size, "reason": reason}
        rows.append(Row(name, "openvino", precision, built=built, measures=measures, kept=True, **shared))
    notes = wait_for_quiet(measurer.recipe, print)
    rows = time_finalists(rows, {origin: measurer}, limits_of(measurer.recipe, measurer.main_metric), notes)
    for row in sorted(rows, key=lambda row: not row.kept):
        figures = f"{row.metric or float('nan'):7.2f} dB {row.latency(50) or float('nan'):7.1f} ms"
        print(f"{row.name:44s} {figures}  {'kept' if row.kept else 'rejected'}: {row.reason}")
    print("\n".join(notes))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--recipe", type=Path, required=True)
    arguments = parser.parse_args()
    overrides = {
        "search.runtimes": ["onnxruntime", "openvino"],
        "search.timing_seconds": 6.0,
        "search.quiet_seconds": 300,
    }
    recipe = load_recipe(arguments.recipe, overrides)
    place = find_checkpoint(arguments.run)
    trained, name = load_checkpoint(place), recipe.name
    trained.model.half().float()
    measurer = make_measurer(trained, load_splits(recipe.data, recipe.task.name), recipe)
    trained = describe(trained, place.parent / "metrics.csv", measurer.main_metric, arguments.recipe, name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = build_rows(measurer, folder, name)
        kept = [row for row in rows if row.kept and row.built]
        main_cases = (case for case in measurer.cases() if measurer.main_metric.endswith(case.condition))
        create_artifact(
            trained,
            folder / "artifact",
            name=name,
            version="1.0.0",
            golden=make_golden(trained, main_cases, 4, max_bytes=GOLDEN_BYTES),
            built=[row.built for row in kept],
            memory=measure_memory(trained, [row.built for row in kept]),
            default="onnxruntime:fp32",
            main_metric=measurer.main_metric,
            lineage=lineage(rows),
            metrics=metric_rows(kept, measurer),
            benchmarks=bench_rows(kept, measurer),
            licence=Licence(weights="Apache-2.0", data=recipe.licence_data),
            training={"recipe": f"recipes/{arguments.recipe.name}", **trained.info},
        )
        print(f"verified: {verify(str(folder / 'artifact')).passed}")
        destination = shipped_root() / name
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(folder / "artifact", destination)
    save_checkpoint(shipped_root() / f"{name}-checkpoint", trained, dtype=torch.float16)
    print(f"{sum(p.stat().st_size for p in destination.iterdir()) / 1e6:.2f} MB in {destination.name}")


if __name__ == "__main__":
    main()
