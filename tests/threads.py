"""Calling a session from many threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pocketvit.runtimes import Session


def answers_of_threads(
    session: Session, pictures: Sequence[np.ndarray], *, calls: int = 400, threads: int = 8
) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Index of the picture and its answer, for ``calls`` calls over ``threads`` threads."""

    def call(number: int) -> tuple[int, dict[str, np.ndarray]]:
        index = number % len(pictures)
        return index, session.run({"pixels": pictures[index][None]})

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, range(calls)))
