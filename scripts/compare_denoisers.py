"""Table and pictures of docs/denoising.md: one token for an image, a token for each patch, and the hybrid restorer.

python scripts/compare_denoisers.py [--minutes 3] [--data ../shared/data/bsds500] [--runs runs/compare]

Trains the three one after the other for the same minutes (a run that is finished is not trained again), exports each,
times the artifacts in turns, prints the table, and writes the picture. ViT-B is counted and timed, not trained.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

import pocketvit
from pocketvit.bench.timing import interleave
from pocketvit.data.noise import add_gaussian
from pocketvit.export.artifact import complexity
from pocketvit.models.trained import Trained, find_checkpoint, save_checkpoint
from pocketvit.spec.images import list_images, read_image
from pocketvit.spec.metrics import psnr
from pocketvit.spec.recipe import Recipe, load_recipe
from pocketvit.spec.tiles import to_pixels
from pocketvit.tasks.load import load_checkpoint
from pocketvit.tasks.start import new_model

SIDE, SIGMA, CODES = 64, 25, 192
SYSTEMS: dict[str, tuple[str, dict[str, Any], int, int, float]] = {
    "global": ("vit_restorer_tiny", {"decoder": "global"}, SIDE, 8, 1e-3),
    "token": ("vit_restorer_tiny", {"decoder": "token"}, SIDE, 8, 1e-3),
    "hybrid": ("restorer_s", {}, 256, 16, 2e-3),
    "base-global": ("vit_restorer_base_global", {}, 224, 32, 1e-4),
    "base-token": ("vit_restorer_base_token", {}, 224, 32, 1e-4),
}
"""By name: architecture, options, side and overlap of the tiles, learning rate."""
TRAINED = ("global", "token", "hybrid")


def recipe_of(name: str, data: Path, minutes: float) -> Recipe:
    """The same data, noise, batch and minutes for all."""
    model, options, side, overlap, rate = SYSTEMS[name]
    levels = {"sigma": [SIGMA, SIGMA], "eval_sigma": [SIGMA], "patch": SIDE if name in TRAINED else side}
    places = {"train": [str(data / "train"), str(data / "test")], "val": [str(data / "val32")]}
    tiles = {"resize": "tile", "size": [side, side], "overlap": overlap, "mean": [0, 0, 0], "std": [1, 1, 1]}
    train = {"minutes": minutes, "epochs": 1000, "batch_size": 32, "lr": rate, "weight_decay": 1e-4, "ema": 0.99}
    return load_recipe(
        {
            "name": f"compare-{name}",
            "data": places | levels | {"patches_per_image": 128},
            "model": {"name": model, "options": options},
            "task": {"name": "restore"},
            "preprocess": tiles,
            "train": train | {"min_lr": 0.01, "threads": 2},
        }
    )


def prepare(name: str, runs: Path, data: Path, minutes: float) -> tuple[Trained, Path]:
    """The trained model (of ViT-B one with random weights) and its artifact."""
    folder, artifact = runs / name, runs / f"{name}-artifact"
    recipe = recipe_of(name, data, minutes)
    if not (folder / "best").exists():
        if name in TRAINED:
            pocketvit.train(recipe, name=name, runs=str(runs))
        else:
            save_checkpoint(folder / "best", new_model(recipe, ()))
    if not artifact.exists():
        pocketvit.export(str(folder), str(artifact), data=str(data / "val32"), goldens=2)
    return load_checkpoint(find_checkpoint(folder)), artifact


def codes(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (N) and the best ``CODES`` directions (N, CODES) of clean crops: no linear decoder of so few numbers, fitted
    to the same photos, is better for them."""
    rng, crops = np.random.default_rng(0), []
    for path in [*list_images(data / "train"), *list_images(data / "test")]:
        photo = read_image(path)
        for _ in range(10):
            y, x = (int(rng.integers(length - SIDE + 1)) for length in photo.shape[:2])
            crops.append(photo[y : y + SIDE, x : x + SIDE].reshape(-1))
    matrix = torch.from_numpy(np.stack(crops)).float()
    mean = matrix.mean(0)
    return mean, torch.svd_lowrank(matrix - mean, q=CODES, niter=4)[2]


def coded(photo: np.ndarray, mean: torch.Tensor, directions: torch.Tensor) -> np.ndarray:
    """The clean photo, each tile squeezed through ``CODES`` numbers; cut to whole tiles."""
    rows, columns = (length // SIDE for length in photo.shape[:2])
    tiles = photo[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    flat = torch.from_numpy(tiles.reshape(rows * columns, -1)).float() - mean
    back = (flat @ directions @ directions.T + mean).numpy().reshape(rows, columns, SIDE, SIDE, 3)
    return to_pixels(back.swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, 3))


def picture(artifacts: dict[str, Path], squeeze: Any, out: Path) -> None:
    """Noisy, one token, the best of its width, a token for each patch, hybrid: 128x128 pixels, twice enlarged."""
    clean = astronaut()  # NASA, public domain
    noisy = add_gaussian(clean, SIGMA, np.random.default_rng(0))
    answers = {name: pocketvit.load(str(artifacts[name]))(noisy).image for name in TRAINED}
    panels = {"noisy": noisy, "global": answers["global"], "best code": coded(clean, *squeeze)}
    panels |= {name: answers[name] for name in TRAINED[1:]} | {"clean": clean}
    for name, image in panels.items():
        print(f"picture, {name}: {psnr(image, clean):.2f} dB")
    strip = np.concatenate([image[40:168, 160:288] for image in panels.values()], axis=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip.repeat(2, axis=0).repeat(2, axis=1)).save(out, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bsds500"))
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=Path("docs/img/denoisers.jpg"))
    given = parser.parse_args()
    ready = {name: prepare(name, given.runs, given.data, given.minutes) for name in SYSTEMS}
    squeeze = codes(given.data)
    photos = [read_image(path) for path in list_images(given.data / "val32")]
    whole = [(photo[: photo.shape[0] // SIDE * SIDE, : photo.shape[1] // SIDE * SIDE], photo) for photo in photos]
    best = np.mean([psnr(coded(photo, *squeeze), cut) for cut, photo in whole])
    print(f"best linear decoder of {CODES} numbers for each clean {SIDE}x{SIDE} tile, on val32: {best:.2f} dB")
    photo = add_gaussian(photos[0], SIGMA, np.random.default_rng(0))
    models = {name: pocketvit.load(str(artifact)) for name, (_, artifact) in ready.items()}
    timings = interleave(
        {name: lambda model=model: model(photo) for name, model in models.items()}, seconds=20.0, min_rounds=5, warmup=1
    )
    print("| system | parameters | GMACs for 256x256 | patches seen | dB | ms |\n|---|---|---|---|---|---|")
    for name, (trained, _) in ready.items():
        counts, side = complexity(trained), trained.preprocess.size[0]
        macs = counts["macs"] * (256 / side) ** 2 / 1e9
        score = trained.info.get("metrics", {}).get(f"psnr@sigma{SIGMA}", float("nan"))
        seen = trained.info.get("images_seen", 0)
        print(f"| {name} | {counts['parameters']:,} | {macs:.1f} | {seen:,} | {score:.2f} | {timings[name].p50:.0f} |")
    picture({name: artifact for name, (_, artifact) in ready.items()}, squeeze, given.out)


if __name__ == "__main__":
    main()
