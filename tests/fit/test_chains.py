"""Searching over chains of steps: what is tried, in which order, and that it ends in an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pocketvit
from pocketvit.compress.step import StepKind
from pocketvit.compress.table import STEPS, Planned, plan_slots
from pocketvit.errors import UsageError
from pocketvit.fit.chains import alone, searched
from pocketvit.fit.rows import Row
from pocketvit.spec.artifact import read_artifact
from pocketvit.spec.recipe import load_recipe

from . import chain_steps

GAINS = {"a": 2.0, "b": 1.5, "c": 0.5, "slow one": 3.0, "slow two": 1.1}


@dataclass
class FakeChain:
    """Gains multiply; ``b`` undoes what ``a`` brought, and ``c`` is never kept."""

    chains: int
    prefer: str = "speed"
    followed: list[tuple[str, ...]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    origin: str = "net"
    runtime: str = "onnxruntime"

    @property
    def measurer(self) -> Any:
        fields = {"compress.chains": self.chains, "search.prefer": self.prefer}
        return SimpleNamespace(recipe=load_recipe(None, fields))

    def notify(self, text: str) -> None:
        self.said.append(text)

    def follow(self, steps: Sequence[Planned]) -> Iterator[Row]:
        labels = tuple(step.label for step in steps)
        self.followed.append(labels)
        done: list[str] = []
        yield Row("fp32", kept=True, speedup=1.0, built=sized(1.0))
        for label in labels:
            done.append(label)
            faster = 1.0
            for name in done:
                faster *= GAINS[name] if not (name == "b" and "a" in done) else 0.4
            yield Row(" > ".join(done), step=label, kept=label != "c", speedup=faster, built=sized(1 / faster))


def sized(share: float) -> Any:
    return SimpleNamespace(bytes=round(1000 * share))


def planned(name: str, *, retrains: bool = False, choice: str = "", baseline: bool = False) -> Planned:
    kind = StepKind(name, object, lambda *_: None, "file", "onnxruntime", retrains=retrains, baseline=baseline)  # type: ignore[arg-type]
    return Planned(kind, None, choice=choice)


SLOTS = [
    [planned("slow", retrains=True, choice="one"), planned("slow", retrains=True, choice="two")],
    [planned("a")],
    [planned("b")],
    [planned("c")],
]


def test_a_small_space_is_tried_whole_and_only_once() -> None:
    chain = FakeChain(chains=100)
    rows = searched(chain, SLOTS[1:])  # type: ignore[arg-type]
    assert len(set(chain.followed)) == len(chain.followed) - 1  # the first run, of no step, is that of the baselines
    assert len({*chain.followed}) == 8
    assert len({row.name for row in rows}) == len(rows)
    assert chain.said == ["net: onnxruntime: 8 of 8 chains were carried out"]


def test_what_retrains_comes_last_and_in_front_of_the_best_cheap_chain() -> None:
    chain = FakeChain(chains=12)
    searched(chain, SLOTS)  # type: ignore[arg-type]
    trains = [any(label.startswith("slow") for label in labels) for labels in chain.followed]
    assert trains == sorted(trains)
    assert trains.count(True) >= 2
    first = next(labels for labels in chain.followed if labels and labels[0].startswith("slow"))
    assert first[1:] == ("a",)
    assert chain.said == ["net: onnxruntime: 12 of 24 chains were carried out"]


@pytest.mark.parametrize("most", [1, 5])
def test_no_more_chains_than_asked_for_and_the_same_ones_again(most: int) -> None:
    one, two = FakeChain(chains=most), FakeChain(chains=most)
    for chain in (one, two):
        searched(chain, SLOTS)  # type: ignore[arg-type]
    assert one.followed == two.followed
    assert len(set(one.followed[1:])) == most


def test_by_size_where_size_is_preferred() -> None:
    chain = FakeChain(chains=4, prefer="size")
    rows = searched(chain, SLOTS[1:2])  # type: ignore[arg-type]
    assert {row.name for row in rows} == {"fp32", "a"}


def test_a_float_file_that_is_refused_ends_it() -> None:
    chain = FakeChain(chains=4)
    chain.follow = lambda steps: iter([Row("fp32", kept=False)])  # type: ignore[method-assign,assignment]
    assert [row.name for row in searched(chain, SLOTS)] == ["fp32"]  # type: ignore[arg-type]


def test_the_library_default_is_built_once_on_the_float_file() -> None:
    chain = FakeChain(chains=2)
    GAINS["lib (library default)"] = 0.9
    searched(chain, [[planned("lib", baseline=True), planned("a")]])  # type: ignore[arg-type]
    assert chain.followed[0] == ("lib (library default)",)
    assert set(chain.followed[1:]) == {("a",), ()}


def test_each_step_alone_and_what_trains_last() -> None:
    chain = FakeChain(chains=0)
    rows = list(alone(chain, SLOTS))  # type: ignore[arg-type]
    assert chain.followed == [("a",), ("b",), ("c",), ("slow one",), ("slow two",)]
    assert {row.name for row in rows} == {"fp32", "a", "b", "c", "slow one", "slow two"}


def test_alternatives_are_told_apart_by_their_settings() -> None:
    entries: list[Any] = [[{"int8": {"smooth": []}}, "int8", {"int8": {"smooth": []}}], "fp16"]
    slots = plan_slots(entries, "onnxruntime")
    assert [[step.label for step in slot] for slot in slots] == [
        ["int8 smooth=[]", "int8", "int8 smooth=[] (2)"],
        ["fp16"],
    ]
    assert slots[0][0].settings["smooth"] == ()
    twice = plan_slots(["fp16", "fp16"], "onnxruntime")
    assert [[step.label for step in slot] for slot in twice] == [["fp16"], ["fp16 (2)"]]
    with pytest.raises(UsageError, match="no chains are searched"):
        load_recipe(None, {"compress.steps": entries})
    with pytest.raises(UsageError, match="no setting 'smoth'"):
        plan_slots([["fp16", {"int8": {"smoth": []}}]], "onnxruntime")
    assert load_recipe(None, {"compress": {"steps": entries, "chains": 3}}).compress.names == (
        "int8",
        "int8",
        "int8",
        "fp16",
    )


@pytest.mark.slow
def test_a_search_over_chains_ends_in_the_smallest_file_of_all(
    data: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [replace(kind, retrains=kind.name == "narrow") for kind in chain_steps.KINDS]
    monkeypatch.setattr("pocketvit.compress.table.STEPS", [*STEPS, *kinds])
    shares: list[Any] = [[{"narrow": {"share": 0.5}}, {"narrow": {"share": 0.25}}], "half", "wreck"]
    fields = {"compress": {"steps": shares, "chains": 12, "alone": True, "min_shrink": 1.02, "calibration_images": 4}}
    recipe = load_recipe(chain_steps.chain_recipe(data, [], weights, 100), fields)
    report = pocketvit.fit(recipe, name="k", runs=str(tmp_path), quiet=True)
    kept = [row for row in report.rows if row.kept]
    assert report.chosen == min(kept, key=lambda row: row.bytes or 0).name
    assert report.chosen.endswith("narrow share=0.25 > half")
    steps = {row.name.split(":")[-1] for row in report.rows if row.step}
    assert steps >= {"narrow share=0.5", "narrow share=0.25", "half", "wreck"}  # each alone
    assert len({row.name for row in report.rows}) == len(report.rows)
    assert {row.settings.get("share") for row in report.rows if row.step.startswith("narrow")} == {0.5, 0.25}
    html = (tmp_path / "k" / "report.html").read_text(encoding="utf-8")
    assert 'id="waterfall"' in html
    steps = [step.step for step in read_artifact(report.artifact).manifest.lineage if step.kept]
    assert any(name.endswith("narrow share=0.25") for name in steps)
