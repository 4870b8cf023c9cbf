"""What a training run leaves for people: ``metrics.csv``, ``curves.png``, progress lines."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

EpochRow = dict[str, Any]


def read_rows(path: Path) -> list[EpochRow]:
    """Rows of a metrics.csv, numbers as floats; a half-written last line is dropped."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for raw in csv.DictReader(file):
            try:
                rows.append(
                    {key: float(value) for key, value in raw.items() if key is not None and value not in ("", None)}
                )
            except ValueError:
                continue
    return rows


def write_rows(path: Path, rows: list[EpochRow]) -> None:
    """Replace metrics.csv in one step."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def draw_curves(rows: list[EpochRow], path: Path, metric: str) -> None:
    """Training loss and validation metric over images seen, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    images = [row["images"] for row in rows]
    left.plot(images, [row["train_loss"] for row in rows], marker=".")
    left.set(xlabel="images seen", ylabel="training loss")
    scored = [(row["images"], row[metric]) for row in rows if metric in row]
    right.plot([x for x, _ in scored], [y for _, y in scored], marker=".", color="tab:green")
    right.set(xlabel="images seen", ylabel=metric)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
