"""Which chains of steps are carried out: the recipe's own, or those that Optuna searches under the floor.

Chains are cheap where they share their beginning (``fit.shrink`` does each state once), and where nothing is trained:
those come first, and what retrains is tried in front of the best of them. The search is seeded and the rows lie on
disk, so a killed run asks for the same chains again and finds their rows.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from pocketvit.compress.table import Planned
from pocketvit.fit.measure import Measurer
from pocketvit.fit.plan import planned_slots, wanted_runtimes
from pocketvit.fit.rows import Row
from pocketvit.fit.shrink import Chain

Slots = Sequence[Sequence[Planned]]
Pick = tuple[int, ...]
"""Of each slot the number of the step that is carried out; ``OUT`` leaves it out."""
OUT, STALE = -1, 20
"""STALE: proposals in a row that are all known, after which an untried chain is taken at random."""


def shrink(
    measurer: Measurer, origin: str, folder: Path, notify: Callable[[str], None], *, quiet: bool = True
) -> list[Row]:
    """Export the float files, carry out the recipe's steps on each, and judge each by its own measurements.

    Args:
        measurer: the trained model and what it is measured with.
        origin: name of the candidate in tables.
        folder: where the files are written; rows that lie there are taken over, so that a killed run goes on.
        notify: told what is being done.
        quiet: steps that retrain show no progress.

    Returns:
        One row for each file, float files first.
    """
    rows: list[Row] = []
    for runtime in wanted_runtimes(measurer.recipe):
        chain = Chain(measurer, origin, folder, runtime, notify, quiet=quiet)
        slots = planned_slots(measurer.recipe, runtime)
        found = {row.name: row for row in alone(chain, slots)} if measurer.recipe.compress.alone else {}
        if measurer.recipe.compress.chains:
            found |= {row.name: row for row in searched(chain, slots)}
        else:
            found |= {row.name: row for row in chain.follow([step for slot in slots for step in slot])}
        rows += found.values()
    return sorted(rows, key=lambda row: bool(row.step))


def alone(chain: Chain, slots: Slots) -> Iterator[Row]:
    """The rows of chains of one step each; what trains nothing comes first."""
    steps = [step for slot in slots for step in slot]
    for step in sorted(steps, key=lambda step: step.kind.retrains):
        yield from chain.follow([step])


def searched(chain: Chain, slots: Slots) -> list[Row]:
    """The rows of up to ``compress.chains`` chains, each row once; library defaults are carried out on the float file.

    At most half of the chains are spent on those that train nothing, where there are others.
    """
    recipe = chain.measurer.recipe
    found = {row.name: row for row in chain.follow([step for slot in slots for step in slot if step.kind.baseline])}
    if not any(row.kept for row in found.values()):
        return list(found.values())
    slots = [[step for step in slot if not step.kind.baseline] for slot in slots]
    cheap = [[i for i, step in enumerate(slot) if not step.kind.retrains] for slot in slots]
    every = [list(range(len(slot))) for slot in slots]
    search = _Search(chain, slots, recipe.search.prefer == "size", recipe.train.seed, found)
    most = recipe.compress.chains
    search.run(cheap, most if cheap == every else max(1, most // 2), [tuple(x[0] if x else OUT for x in cheap)])
    if cheap != every:
        search.run(every, most, list(search.in_front(cheap)))
    total = math.prod(len(slot) + 1 for slot in slots)
    chain.notify(f"{chain.origin}: {chain.runtime}: {len(search.tried)} of {total} chains were carried out")
    return list(found.values())


@dataclass
class _Search:
    chain: Chain
    slots: Slots
    by_size: bool
    seed: int
    found: dict[str, Row]
    """Rows by name."""
    tried: dict[Pick, float] = field(default_factory=dict)

    def run(self, allowed: Sequence[Sequence[int]], most: int, first: Sequence[Pick]) -> None:
        """Try ``first`` and what Optuna proposes next, until ``most`` chains are tried in all or none is left."""
        spaces: dict[str, BaseDistribution] = {
            str(i): CategoricalDistribution([OUT, *x]) for i, x in enumerate(allowed)
        }
        left = _shuffled([(OUT, *x) for x in allowed], self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed, multivariate=False))
        for pick, value in self.tried.items():
            study.add_trial(optuna.create_trial(params=_named(pick), distributions=spaces, value=value))
        for pick in first:
            study.enqueue_trial(_named(pick), skip_if_exists=True)
        stale = 0
        while len(self.tried) < most:
            trial = study.ask(spaces)
            pick = tuple(int(trial.params[str(i)]) for i in range(len(self.slots)))
            stale = stale + 1 if pick in self.tried else 0
            study.tell(trial, self.value(pick))
            if stale >= STALE:
                fresh = next((pick for pick in left if pick not in self.tried), None)
                if fresh is None:
                    return
                study.enqueue_trial(_named(fresh))

    def value(self, pick: Pick) -> float:
        """What is to be small: time, or size, of the best kept file of the chain as a share of the float file's."""
        if pick not in self.tried:
            rows = list(self.chain.follow([slot[i] for slot, i in zip(self.slots, pick, strict=True) if i != OUT]))
            self.found |= {row.name: row for row in rows}
            self.tried[pick] = min(self._share(row, rows[0]) for row in rows if row.kept)
        return self.tried[pick]

    def _share(self, row: Row, base: Row) -> float:
        if self.by_size:
            return (row.bytes or math.inf) / (base.bytes or 1)
        return 1 / (row.speedup or 1e-9)

    def in_front(self, cheap: Sequence[Sequence[int]]) -> Iterator[Pick]:
        """The best chain so far behind each of the steps that it could not have yet."""
        best = min(self.tried, key=lambda pick: (self.tried[pick], len(pick) - pick.count(OUT)))
        for number, (slot, without) in enumerate(zip(self.slots, cheap, strict=True)):
            for i in set(range(len(slot))) - set(without):
                yield (*best[:number], i, *best[number + 1 :])


def _named(pick: Pick) -> dict[str, int]:
    return {str(i): choice for i, choice in enumerate(pick)}


def _shuffled(choices: Sequence[Sequence[int]], seed: int, most: int = 100_000) -> list[Pick]:
    every = list(itertools.islice(itertools.product(*choices), most))
    random.Random(seed).shuffle(every)
    return every
