"""The picture of a split benchmark: for each link a bar for each way, made of what its time went by with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pocketvit.files import replacing
from pocketvit.fit.split_run import LinkResult
from pocketvit.report.plots import LIGHT

SHOWN = {"client": "client", "encode": "encoding", "link": "link", "server": "server"}


def plot(links: Sequence[LinkResult], path: Path) -> None:
    """Write the picture as PNG. Raises DataError: it cannot be written."""
    figure = Figure(figsize=(10, 3.2 * len(links)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, result in enumerate(links, start=1):
        axes = figure.add_subplot(len(links), 1, number)
        names, bottom = list(result.ways), np.zeros(len(result.ways))
        for (part, label), colour in zip(SHOWN.items(), LIGHT.lines, strict=False):
            heights = np.array([getattr(timed, part).p50 for timed in result.ways.values()])
            axes.bar(names, heights, bottom=bottom, label=label, color=colour)
            bottom += heights
        for place, (name, timed) in enumerate(result.ways.items()):
            star = "best\n" if name == result.best else ""
            text = f"{star}{timed.bytes / 1e3:.1f} kB"
            axes.annotate(text, (place, bottom[place]), ha="center", va="bottom", fontsize=7, color=LIGHT.ink)
        axes.set_ylabel("ms, medians of parts")
        axes.set_title(f"over {result.link}", fontsize=9, loc="left")
        axes.tick_params(axis="x", labelsize=7)
        axes.margins(y=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, ncols=len(SHOWN), frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
