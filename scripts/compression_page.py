"""docs/compression.md from a run: every step alone, the chain that was chosen, and what did not pay and why.

python scripts/compression_page.py RECIPE... --checkpoint RUN [--runs runs] [--out docs/compression.md]

Carries out ``pocketvit compress RECIPE --checkpoint RUN`` for each recipe and writes its tables between the marks of
the page: each row is a file, with its own figures. The files of a run of its name, finished or killed, are used.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pocketvit
from pocketvit.compress.store import stored_notes
from pocketvit.fit.rows import Row
from pocketvit.report.data import figure, load_report
from pocketvit.report.plots import chain_of, pareto_plot, waterfall_plot
from pocketvit.runtimes.stored import SUFFIX
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.recipe import load_recipe
from pocketvit.train.runs import FINISHED

BEGIN, END = "<!-- steps: begin -->", "<!-- steps: end -->"
HEAD = "| runtime | steps | {metric} (95 % interval) | ms p50 | times as fast | MB | times smaller | verdict |"


def steps_of(row: Row) -> str:
    """``prune > int8``; ``float`` where there is none."""
    return row.name.removeprefix(f"{row.origin} {row.runtime}:").replace("fp32", "float")


def line(row: Row, base: Row) -> str:
    """A row of the table: ratios are against the float file of the same runtime, timed in turns with it."""
    measure = row.measure
    metric = f"{measure.value:.2f} ({measure.low:.2f} to {measure.high:.2f})" if measure else "-"
    ms, faster = figure(row.latency(50), digits=3), figure(row.speedup, digits=3)
    size = figure(row.bytes / 1e6 if row.bytes else None, digits=3)
    smaller = figure((base.bytes or 0) / row.bytes if row.bytes else None, digits=3)
    judged = f"gains; {row.reason}" if row.reason.startswith("not among") else f"not kept: {row.reason}"
    verdict = "chosen" if row.chosen else "kept" if row.kept else judged
    return f"| {row.runtime} | {steps_of(row)} | {metric} | {ms} | {faster} | {size} | {smaller} | {verdict} |"


def tables(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """Steps alone; chains of several."""
    floats = {row.runtime: row for row in rows if not row.step and row.runtime}
    known = [row for row in rows if row.runtime in floats]
    parts = {
        "Each step alone": [row for row in known if not row.step or row.before == floats[row.runtime].name],
        "Chains": [row for row in known if row.step and row.before != floats[row.runtime].name],
    }
    for title, part in parts.items():
        yield f"### {title}\n"
        yield HEAD.format(metric=metric)
        yield "|---" * HEAD.count(" | ") + "|---|"
        yield from (line(row, floats[row.runtime]) for row in part)
        yield ""


def curves(rows: Sequence[Row]) -> Iterator[str]:
    """Of each file with early exits behind a float one: what a threshold gives."""
    for row in rows:
        if row.exits and row.step == "early_exit":
            yield f"### Early exits, {row.runtime}: {steps_of(row)}\n"
            yield "Share of the photos by exit (the last is the end), all validation photos, mean time of the shares.\n"
            yield "| least probability | photos by exit, % | metric | mean ms |"
            yield "|---|---|---|---|"
            for point in row.exits:
                shares = " / ".join(f"{100 * share:.0f}" for share in point["shares"])
                mark = " (chosen on training photos)" if point["chosen"] else ""
                ms = figure(point["ms"], digits=3)
                yield f"| {point['threshold']}{mark} | {shares} | {point['metric']:.2f} | {ms} |"
            yield ""


def stored(rows: Sequence[Row]) -> Iterator[str]:
    """Bits a value of the weights in stored files, by the form that they took."""
    lines = []
    for row in rows:
        if row.built is not None and row.built.path.suffix == SUFFIX:
            forms = stored_notes(row.built.path, 1)["forms"].items()
            what = ", ".join(f"{x['values'] / 1e6:.2f} M as {form}: {x['bits_per_value']:.2f}" for form, x in forms)
            lines.append(f"| {steps_of(row)} | {what} |")
    if lines:
        yield "### Bits a weight in the stored files (32 in float)\n"
        yield "| steps | weights and bits of each |"
        yield "|---|---|"
        yield from lines
        yield ""


def draw(folder: Path, images: Path, name: str) -> Iterator[str]:
    """The two plots of the report, as files beside the page."""
    data = load_report(folder)
    label = f"{data.metric_name}, {data.metric_unit}"
    images.mkdir(parents=True, exist_ok=True)
    plots = {"Every file: metric against time": pareto_plot(data.candidates, metric_label=label)}
    if data.chosen and chain_of(data.chosen.name, data.lineage):
        plots["From the float file to the chosen one"] = waterfall_plot(
            data.chosen.name, data.lineage, metric_label=label
        )
    for number, (title, svg) in enumerate(plots.items()):
        if svg:
            file = images / f"{name}-{number}.svg"
            file.write_text(svg, encoding="utf-8")
            yield f"![{title}]({images.name}/{file.name})\n"


def section(path: str, checkpoint: str, runs: str, images: Path) -> Iterator[str]:
    """All that one recipe brings."""
    recipe = load_recipe(path)
    Path(runs, recipe.name, FINISHED).unlink(missing_ok=True)  # its files are taken over, and timed once more
    report = pocketvit.compress(path, checkpoint=checkpoint, name=recipe.name, runs=runs)
    manifest = read_artifact(report.artifact).manifest
    count = next(row.measure.count for row in report.rows if row.measure)
    machine = manifest.benchmarks[0].environment.get("cpu", "")
    yield f"## {recipe.name}\n"
    yield f"`pocketvit compress {path} --checkpoint runs/{Path(checkpoint).name}`: {count} photos, which also chose;"
    yield f"{recipe.target.threads} threads, one photo with pre- and postprocessing, {machine}."
    yield f"Chosen: `{report.chosen}`, {report.why}.\n"
    yield from tables(report.rows, report.metric)
    yield from curves(report.rows)
    yield from stored(report.rows)
    yield from draw(report.folder, images, recipe.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--out", type=Path, default=Path("docs/compression.md"))
    given = parser.parse_args()
    lines = [x for each in given.recipes for x in section(each, given.checkpoint, given.runs, given.out.parent / "img")]
    page = given.out.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN, 1)
    text = "\n".join(lines)
    given.out.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    print(f"{given.out}: {len(given.recipes)} recipes")


if __name__ == "__main__":
    main()
