"""Make the shipped denoiser's artifact from a training run, and lay its checkpoint beside it.

python scripts/ship_denoiser.py runs/denoise_color [--recipe recipes/denoise_color.yaml]

One ONNX file serves ONNX Runtime and OpenVINO (fp32 and bf16), which reads ONNX; int8 is added if it passes the gate.
Every variant is scored on all validation images, timed and verified before anything is copied.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from pocketvit.bench.timing import speedup
from pocketvit.data.collections import load_splits
from pocketvit.export.artifact import create_artifact, make_golden
from pocketvit.export.built import Built
from pocketvit.fit.gate import Row
from pocketvit.fit.handover import bench_rows, lineage, metric_rows
from pocketvit.fit.measure import make_bench
from pocketvit.fit.shrink import shrink
from pocketvit.models.trained import find_checkpoint, save_checkpoint
from pocketvit.spec.artifact import shipped_root
from pocketvit.spec.environment import environment
from pocketvit.spec.manifest import Licence
from pocketvit.spec.recipe import load_recipe
from pocketvit.tasks.load import load_checkpoint
from pocketvit.train.history import read_rows
from pocketvit.verify.command import verify

NAME = "denoise-color"


def more(history: Path, metric: str) -> str:
    """What each doubling of the images seen brought in this run, and how to train on."""
    rows = [row for row in read_rows(history) if metric in row]
    steps = [min(rows, key=lambda row: abs(row["images"] - share * rows[-1]["images"])) for share in (0.25, 0.5, 1.0)]
    curve = ", ".join(f"{row['images'] / 1000:.0f}k: {row[metric]:.2f}" for row in steps)
    train_on = f"pocketvit train recipes/denoise_color.yaml --model.weights {NAME}"
    return f"validation {metric} (dB) after so many patches: {curve}; not flat yet. To train on: {train_on}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--recipe", default="recipes/denoise_color.yaml")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, {"search.runtimes": ["onnxruntime"], "search.timing_seconds": 6.0})
    trained = load_checkpoint(find_checkpoint(arguments.run))
    bench = make_bench(trained, load_splits(recipe.data, "restore"), recipe)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = shrink(bench, NAME, folder / "files", print)
        onnx = next(row.built for row in rows if row.precision == "fp32")
        for precision in ("fp32", "bf16"):
            built = Built("openvino", precision, onnx.path)
            metrics = bench.score(built)
            rows.append(
                Row(
                    f"{NAME} {built.key}",
                    "openvino",
                    precision,
                    built,
                    metrics,
                    metrics[bench.main_metric],
                    kept=True,
                    origin=NAME,
                    reason="the same ONNX file",
                )
            )
        # The float file in every engine stays whatever its speed elsewhere; int8 stays only if the gate kept it.
        kept = [row for row in rows if row.kept and row.built]
        timings = bench.time([row.built for row in kept])
        kept = [
            replace(row, timing=timing, speedup=speedup(timings[0], timing).p50)
            for row, timing in zip(kept, timings, strict=True)
        ]
        for row in [*kept, *(r for r in rows if not r.kept)]:
            figures = f"{row.metric or float('nan'):7.2f} dB {row.latency('p50') or float('nan'):7.1f} ms"
            print(f"{row.name:44s} {figures}  {'kept' if row.kept else 'rejected'}: {row.reason}")
        machine = environment()
        trained = replace(
            trained,
            info={
                **trained.info,
                "machine": f"{machine['cpu']}, {machine['cores']} cores, no GPU, shared with other work",
                "what_more_would_bring": more(find_checkpoint(arguments.run).parent / "metrics.csv", bench.main_metric),
            },
        )
        golden = make_golden(
            trained, (case for case in bench.cases() if case.condition == "sigma25"), 4, max_bytes=1_300_000
        )
        create_artifact(
            trained,
            folder / "artifact",
            name=NAME,
            version="1.0.0",
            golden=golden,
            built=[row.built for row in kept],
            default="onnxruntime:fp32",
            main_metric=bench.main_metric,
            lineage=lineage(rows, bench),
            metrics=metric_rows(kept, bench),
            benchmarks=bench_rows(kept, bench),
            licence=Licence(weights="Apache-2.0", data=recipe.licence_data),
            training={"recipe": "recipes/denoise_color.yaml", **trained.info},
        )
        print(f"verified: {verify(str(folder / 'artifact')).passed}")
        destination = shipped_root() / NAME
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(folder / "artifact", destination)
    save_checkpoint(shipped_root() / f"{NAME}-checkpoint", trained)
    print(f"{sum(p.stat().st_size for p in destination.iterdir()) / 1e6:.2f} MB in {destination.name}")


if __name__ == "__main__":
    main()
