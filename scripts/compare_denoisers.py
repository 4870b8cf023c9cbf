"""Table and pictures of docs/denoising.md: one token for an image, a token for each patch, and the hybrid restorer.

python scripts/compare_denoisers.py [--minutes 4] [--threads 2] [--data ../shared/data/bsds500] [--runs runs/compare]

Counts all, and shows what any decoder of one token could reach at most. Then trains three for the same minutes one
after the other (a run that is finished is not trained again), exports each and times the artifacts in turns; ViT-B is
timed, not trained. With --minutes 0 nothing is trained. The minutes are those of the clock: give it a quiet machine.
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

SIDE, SIGMA = 64, 25
CODES = {"192 numbers": 192, "63 numbers": 63}
SYSTEMS: dict[str, tuple[str, dict[str, Any], int, int, float]] = {
    "global": ("vit_restorer_tiny", {"decoder": "global"}, SIDE, 8, 1e-3),
    "token": ("vit_restorer_tiny", {"decoder": "token"}, SIDE, 8, 1e-3),
    "hybrid": ("restorer_s", {}, 256, 16, 2e-3),
    "base-global": ("vit_restorer_base_global", {}, 224, 32, 1e-4),
    "base-token": ("vit_restorer_base_token", {}, 224, 32, 1e-4),
}
"""By name: architecture, options, side and overlap of the tiles, learning rate."""
TRAINED = ("global", "token", "hybrid")


def recipe_of(name: str, data: Path, minutes: float, threads: int = 2) -> Recipe:
    """The same data, noise, batch, minutes and threads for all."""
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
            "train": train | {"min_lr": 0.01, "threads": threads},
        }
    )


def prepare(name: str, runs: Path, data: Path, minutes: float, threads: int) -> tuple[Trained, Path]:
    """The trained model (of ViT-B one with random weights) and its artifact."""
    folder, artifact = runs / name, runs / f"{name}-artifact"
    recipe = recipe_of(name, data, minutes, threads)
    if not (folder / "best").exists():
        if name in TRAINED:
            pocketvit.train(recipe, name=name, runs=str(runs))
        else:
            save_checkpoint(folder / "best", new_model(recipe, ()))
    if not artifact.exists():
        pocketvit.export(str(folder), str(artifact), data=str(data / "val32"), goldens=2)
    return load_checkpoint(find_checkpoint(folder)), artifact


def codes(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (N) and the best directions (N, 192), best first, of clean crops: principal components.

    Of all linear decoders of so few numbers none is better for the photos that these were fitted to.
    """
    rng, crops = np.random.default_rng(0), []
    for path in [*list_images(data / "train"), *list_images(data / "test")]:
        photo = read_image(path)
        for _ in range(10):
            y, x = (int(rng.integers(length - SIDE + 1)) for length in photo.shape[:2])
            crops.append(photo[y : y + SIDE, x : x + SIDE].reshape(-1))
    matrix = torch.from_numpy(np.stack(crops)).float()
    mean = matrix.mean(0)
    directions = torch.svd_lowrank(matrix - mean, q=max(CODES.values()) + 16, niter=2)[2]
    return mean, directions[:, : max(CODES.values())]


def whole_tiles(photo: np.ndarray) -> np.ndarray:
    """Cut to a multiple of the tile."""
    return photo[: photo.shape[0] // SIDE * SIDE, : photo.shape[1] // SIDE * SIDE]


def coded(photo: np.ndarray, mean: torch.Tensor, directions: torch.Tensor) -> np.ndarray:
    """The clean photo, each of its whole tiles squeezed through as many numbers as there are directions."""
    height, width = whole_tiles(photo).shape[:2]
    tiles = whole_tiles(photo).reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3).swapaxes(1, 2)
    flat = torch.from_numpy(tiles.reshape(-1, 3 * SIDE**2)).float() - mean
    back = (flat @ directions @ directions.T + mean).numpy().reshape(tiles.shape)
    return to_pixels(back.swapaxes(1, 2).reshape(height, width, 3))


def draw(panels: dict[str, np.ndarray], out: Path) -> None:
    """128x128 pixels of each side by side, twice enlarged."""
    for name, image in panels.items():
        print(f"{out.name}, {name}: {psnr(image, astronaut()):.2f} dB")
    strip = np.concatenate([image[40:168, 160:288] for image in panels.values()], axis=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip.repeat(2, axis=0).repeat(2, axis=1)).save(out, quality=85)


def ceilings(data: Path, out: Path) -> None:
    """How near a clean photo comes to itself through one token's numbers for each tile: on val32, and as a picture."""
    mean, directions = codes(data)
    photos, panels = [read_image(path) for path in list_images(data / "val32")], {"photo": astronaut()}
    for name, count in CODES.items():
        scores = [psnr(coded(photo, mean, directions[:, :count]), whole_tiles(photo)) for photo in photos]
        print(f"clean val32 through {name} for each {SIDE}x{SIDE} tile: {np.mean(scores):.2f} dB")
        panels[name] = coded(astronaut(), mean, directions[:, :count])
    draw(panels, out / "one_token.jpg")


def count(name: str, data: Path) -> None:
    """Parameters, and multiply-accumulates for 256x256 pixels without the overlap of tiles."""
    trained = new_model(recipe_of(name, data, 1), ())
    counts, side = complexity(trained), trained.preprocess.size[0]
    print(f"| {name} | {counts['parameters']:,} | {counts['macs'] * (256 / side) ** 2 / 1e9:.1f} |", flush=True)


def compare(data: Path, runs: Path, minutes: float, threads: int, out: Path) -> None:
    """Train, time and draw."""
    ready = {name: prepare(name, runs, data, minutes, threads) for name in SYSTEMS}
    photo = add_gaussian(read_image(list_images(data / "val32")[0]), SIGMA, np.random.default_rng(0))
    models = {name: pocketvit.load(str(artifact)) for name, (_, artifact) in ready.items()}
    calls = {name: lambda model=model: model(photo) for name, model in models.items()}
    timings = interleave(calls, seconds=20.0, min_rounds=5, warmup=1)
    print("| system | patches seen | dB | ms |\n|---|---|---|---|")
    for name, (trained, _) in ready.items():
        score = trained.info.get("metrics", {}).get(f"psnr@sigma{SIGMA}", float("nan"))
        print(f"| {name} | {trained.info.get('images_seen', 0):,} | {score:.2f} | {timings[name].p50:.0f} |")
    noisy = add_gaussian(astronaut(), SIGMA, np.random.default_rng(0))
    draw({"noisy": noisy} | {name: models[name](noisy).image for name in TRAINED}, out / "denoisers.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2, help="of training")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bsds500"))
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    given = parser.parse_args()
    print("| system | parameters | GMACs for 256x256 |\n|---|---|---|")
    for name in SYSTEMS:
        count(name, given.data)
    ceilings(given.data, given.out)
    if given.minutes:
        compare(given.data, given.runs, given.minutes, given.threads, given.out)


if __name__ == "__main__":
    main()
