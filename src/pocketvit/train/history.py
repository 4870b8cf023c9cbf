"""What a training run leaves for people: ``metrics.csv`` and ``curves.png``."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError
from pocketvit.files import replacing

EpochRow = dict[str, Any]


def read_rows(path: Path) -> list[EpochRow]:
    """Rows of a metrics.csv, whole numbers as int and others as float; a half-written last line is dropped.

    Raises DataError: it is no such table.
    """
    if not path.exists():
        return []
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for raw in csv.DictReader(file):
                with suppress(ValueError):
                    rows.append({key: _number(text) for key, text in raw.items() if key is not None and text})
        if not rows or not all({"epoch", "step", "images"} <= row.keys() for row in rows[:-1] or rows):
            raise ValueError("no rows with epoch, step and images")
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        what = f"{path}: cannot be read ({' '.join(str(error).split())[:160]})."
        raise DataError(what, "Delete it: the curve so far is lost, and nothing else.") from error
    return [row for row in rows if {"epoch", "step", "images"} <= row.keys()]


def write_rows(path: Path, rows: list[EpochRow]) -> None:
    """Replace metrics.csv in one step. Raises DataError: the folder cannot be written."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def draw_curves(rows: list[EpochRow], path: Path, metric: str) -> None:
    """Training loss and validation metric over images seen, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, column, label, color in (left, "train_loss", "training loss", "C0"), (right, metric, metric, "tab:green"):
        scored = [row for row in rows if column in row]
        axis.plot([row["images"] for row in scored], [row[column] for row in scored], marker=".", color=color)
        axis.set(xlabel="images seen", ylabel=label)
        axis.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)
