"""Is the machine busy with something else? Times that are taken meanwhile are not the model's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from pocketvit.bench.timing import WIDE_SPREAD, Timing
from pocketvit.spec.environment import available_cores

OTHERS = 0.15
"""Share of our cores that other processes may keep busy."""
STOLEN = 0.02
"""Share of the time that the host may give to other machines."""
LOOK_S, PAUSE_S = 0.3, 1.0


@dataclass(frozen=True)
class Load:
    """What else was going on while we looked."""

    others: float
    """Cores that processes other than this one and its children kept busy; 0 where that is not told."""
    busiest: str
    """Name of the process that took most."""
    stolen: float
    """Share of the processor time that a virtual machine's host gave to others; 0 where that is not told."""
    spread: float
    """Interquartile range of the times of equal work, as a share of their median: sees what the counters do not."""

    @property
    def says(self) -> str:
        """What is busy, in words; empty where nothing is."""
        cores, found = available_cores(), []
        if self.others > OTHERS * cores:
            found.append(f"other processes take {self.others:.1f} of {cores} cores (most: {self.busiest})")
        if self.stolen > STOLEN:
            found.append(f"the host gives {100 * self.stolen:.0f} % of the time to others")
        if self.spread > WIDE_SPREAD:
            found.append(f"the times of equal work scatter by {100 * self.spread:.0f} %")
        return ", ".join(found)


def look(seconds: float = LOOK_S) -> Load:
    """Work for ``seconds`` on one core and note what the others did meanwhile."""
    before, (stolen, total) = _processes(), _host()
    began, times = time.perf_counter(), [0.0]
    while sum(times) < seconds * 1e3:
        start = time.perf_counter()
        sum(range(20_000))
        times.append((time.perf_counter() - start) * 1e3)
    elapsed, after, (stolen_after, total_after) = time.perf_counter() - began, _processes(), _host()
    taken = {pid: (used - before[pid][0], name) for pid, (used, name) in after.items() if pid in before}
    return Load(
        others=sum(used for used, _ in taken.values()) / elapsed,
        busiest=max(taken.values(), default=(0.0, ""))[1],
        stolen=(stolen_after - stolen) / max(total_after - total, 1e-9),
        spread=Timing(tuple(times[1:])).spread,
    )


def quiet(seconds: float, notify: Callable[[str], None] = lambda text: None) -> str:
    """Wait until nothing else is busy on this machine.

    Args:
        seconds: at most so long; 0 looks once.
        notify: told once what is waited for.

    Returns:
        Nothing, or what was still busy at the end, in words.
    """
    end, told = time.monotonic() + seconds, False
    while says := look().says:
        if time.monotonic() >= end:
            return says
        if not told:
            notify(f"waiting up to {seconds:.0f} s for a quiet machine: {says}")
        told = True
        time.sleep(min(PAUSE_S, seconds))
    return ""


def machine_was(busy: str) -> str:
    """What :func:`quiet` said, as a clause: ``the machine was quiet``, or busy with what."""
    return f"the machine was {f'busy: {busy}' if busy else 'quiet'}"


def _processes() -> dict[int, tuple[float, str]]:
    """Processor seconds and name of every process but this one and its children; empty where that is not told."""
    try:
        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        return {
            process.pid: (used.user + used.system, process.info["name"] or "")
            for process in psutil.process_iter(["cpu_times", "name"])
            if process.pid not in own and (used := process.info["cpu_times"]) is not None
        }
    except (psutil.Error, OSError):
        return {}


def _host() -> tuple[float, float]:
    """Seconds that were stolen from this machine, and all its processor seconds; zeros where that is not told."""
    try:
        times = psutil.cpu_times()
    except (psutil.Error, OSError):
        return 0.0, 0.0
    return getattr(times, "steal", 0.0), sum(times)
