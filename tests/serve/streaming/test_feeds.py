from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.serve.streaming import feeds
from pocketvit.serve.streaming.feeds import Frame, Health, Slot, paced, retried


def frame(seconds: float = 0.0, born: float | None = None) -> Frame:
    return Frame(seconds, time.perf_counter() if born is None else born, lambda: np.zeros((4, 4, 3), np.uint8))


def test_the_newest_wins_and_the_others_are_counted() -> None:
    slot: Slot[int] = Slot(newest=True)
    assert all(slot.put(number) for number in range(5))
    assert slot.get() == 4
    assert (slot.came, slot.dropped) == (5, 4)
    assert slot.get(timeout=0.01) is None
    assert not slot.finished
    slot.put(5)
    slot.close()
    assert not slot.put(6)
    assert not slot.finished
    assert slot.get() == 5
    assert slot.get() is None
    assert slot.finished
    assert (slot.came, slot.dropped) == (6, 4)


def test_without_newest_who_brings_something_waits() -> None:
    slot: Slot[int] = Slot()
    thread = threading.Thread(target=lambda: [slot.put(number) for number in range(100)] and slot.close())
    thread.start()
    got = []
    while not slot.finished:
        got += [number for number in [slot.get()] if number is not None]
    thread.join()
    assert got == list(range(100))
    assert slot.dropped == 0


def test_closing_frees_who_waits_and_can_discard() -> None:
    slot: Slot[int] = Slot()
    slot.put(1)
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(slot.put(2)))
    thread.start()
    time.sleep(0.05)
    slot.close(discard=True)
    thread.join(5)
    assert told == [False]
    assert slot.finished
    assert (slot.came, slot.dropped) == (1, 1)


def test_a_recording_is_played_at_its_own_speed() -> None:
    began = time.perf_counter()
    out = list(paced(iter([frame(number / 50) for number in range(11)]), threading.Event(), Health()))
    assert 0.2 <= time.perf_counter() - began < 2
    gaps = np.diff([each.born for each in out])
    np.testing.assert_allclose(gaps, 0.02, atol=1e-6)  # born when due, whenever it was handed on


def test_a_slow_decoder_and_a_jump_of_time_set_the_clock_anew() -> None:
    def slow() -> Iterator[Frame]:
        yield frame(0.0)
        time.sleep(0.4)
        yield frame(0.01)
        yield frame(3600.0)

    health, began = Health(), time.perf_counter()
    out = list(paced(slow(), threading.Event(), health))
    assert len(out) == 3
    assert 0.35 < health.slipped < 1
    assert time.perf_counter() - began < 3  # nobody waits for an hour
    assert out[1].born - out[0].born > 0.35


def test_stopping_ends_the_wait() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.perf_counter()
    assert len(list(paced(iter([frame(0), frame(4.0)]), stop, Health()))) == 1
    assert time.perf_counter() - began < 2


class Camera:
    """A source that can be opened again; each time it plays one of the given parts and then breaks."""

    def __init__(self, *parts: int | str) -> None:
        self.parts, self.opened, self.closed = list(parts), 0, 0

    def __call__(self) -> Iterator[Frame]:
        self.opened += 1
        part = self.parts.pop(0) if self.parts else "gone"
        if isinstance(part, str):
            raise DataError(f"cam: {part}.", "Look at it.")
        return self._play(part)

    def _play(self, count: int) -> Iterator[Frame]:
        try:
            for _ in range(count):
                yield frame()
            raise DataError("cam: cable out.", "Look at it.")
        finally:
            self.closed += 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(feeds, "LONGEST_WAIT", 0.04)


def test_a_lost_camera_is_opened_again_and_told_of(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    camera, health = Camera(3, "busy", 2), Health()
    with caplog.at_level(logging.WARNING):
        out = list(retried("cam", camera(), camera, threading.Event(), health, retries=3))
    assert len(out) == 5
    assert [each.time for each in out] == sorted(each.time for each in out)
    assert (health.losses, health.reconnects, camera.closed) == (2, 1, 2)
    assert health.lost == "cam: gone"
    assert health.events == [
        "cam: cable out; attempt 1 of 3 in 0.01 s",
        "cam: busy; attempt 2 of 3 in 0.02 s",
        "cam: cable out; attempt 3 of 3 in 0.04 s",
    ]
    assert [record.message for record in caplog.records] == health.events


def test_attempts_are_bounded_for_a_camera_that_comes_and_goes(quick: None) -> None:
    camera, health = Camera(*[1] * 50), Health()
    assert len(list(retried("cam", camera(), camera, threading.Event(), health, retries=4))) == 5
    assert (camera.opened, health.losses, health.reconnects) == (5, 5, 4)


def test_a_steady_source_has_all_its_attempts_again(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "STEADY", 0.0)
    camera, health = Camera(*[3] * 9), Health()
    assert len(list(retried("cam", camera(), camera, threading.Event(), health, retries=1))) == 27
    assert health.losses == 9


def test_no_attempts_and_a_stop_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    camera, health = Camera(2, 2), Health()
    assert len(list(retried("cam", camera(), camera, threading.Event(), health, retries=0))) == 2
    assert health.lost == "cam: cable out"
    monkeypatch.setattr(feeds, "FIRST_WAIT", 60.0)
    camera, health, stop = Camera(2, 2), Health(), threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert len(list(retried("cam", camera(), camera, stop, health))) == 2
    assert health.lost == ""


def test_what_is_told_is_bounded() -> None:
    health = Health()
    for number in range(100):
        health.tell(str(number))
    assert health.events == [str(number) for number in range(feeds.MOST_EVENTS)]
