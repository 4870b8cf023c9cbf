from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pocketvit.errors import DataError, VerificationError
from pocketvit.interrupts import Interrupted
from pocketvit.serve.streaming.feeds import Frame, Health, paced
from pocketvit.serve.streaming.pipeline import Answered, Counts, Plan, run
from pocketvit.spec.preprocess import Pixels


def frames(count: int, fps: float = 100.0) -> Iterator[Frame]:
    for number in range(count):
        yield Frame(number / fps, time.perf_counter(), lambda number=number: np.full((4, 4, 3), number % 256, np.uint8))


def camera(count: int, fps: float, stop: threading.Event, health: Health) -> Iterator[Frame]:
    return paced(frames(count, fps), stop, health)


class Sink:
    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, answered: Answered) -> float:
        self.numbers.append(int(answered.result))  # type: ignore[call-overload]
        self.threads.add(threading.current_thread().name)
        return time.perf_counter()


def first(seconds: float = 0.0) -> Callable[[Pixels], int]:
    def answer(pixels: Pixels) -> int:
        time.sleep(seconds)
        return int(pixels[0, 0, 0])

    return answer


def start(feed: Iterator[Frame], plan: Plan, stop: threading.Event, health: Health) -> Counts:
    return run(feed, plan, stop, health, lambda: None)


def test_a_model_slower_than_its_camera_drops_and_is_not_late() -> None:
    stop, health, sink = threading.Event(), Health(), Sink()
    plan = Plan(first(0.08), sink, newest=True, live=True)  # type: ignore[arg-type]
    counts = start(camera(200, 100.0, stop, health), plan, stop, health)
    assert counts.came == 200
    assert counts.came == counts.answered + counts.dropped
    assert 10 < counts.answered < 40  # two seconds at 80 ms each
    assert sink.numbers == sorted(set(sink.numbers))
    assert sink.numbers[-1] == 199  # the newest one is answered
    worst = counts.latency.at(90)
    assert worst is not None
    assert worst < 1000  # a queue of all frames would be 14 s late at the end
    assert counts.model.at(50) >= 80 * 0.99  # type: ignore[operator]


def test_every_frame_is_answered_where_it_may_wait() -> None:
    sink, names = Sink(), set()

    def answer(pixels: Pixels) -> int:
        names.add(threading.current_thread().name)
        return int(pixels[0, 0, 0])

    plan = Plan(answer, sink, newest=False, live=False)  # type: ignore[arg-type]
    counts = start(frames(50), plan, threading.Event(), Health())
    assert sink.numbers == list(range(50))
    assert (counts.came, counts.answered, counts.dropped, counts.skipped) == (50, 50, 0, 0)
    assert names == {"stream-model"}
    assert sink.threads == {threading.current_thread().name}


def test_only_a_few_frames_are_held_whatever_the_length() -> None:
    alive = most = 0
    lock = threading.Lock()

    class Held:
        def __init__(self) -> None:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __call__(self) -> Pixels:
            return np.zeros((2, 2, 3), np.uint8)

        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    feed = (Frame(0.0, 0.0, Held()) for _ in range(2000))
    for newest in (True, False):
        plan = Plan(first(), Sink(), newest=newest, live=False)  # type: ignore[arg-type]
        start(feed, plan, threading.Event(), Health())
    assert most <= 8


def test_frames_that_cannot_be_decoded_are_skipped_and_counted() -> None:
    def bad() -> Pixels:
        raise DataError("a.png: cannot be decoded.", "Leave it out.")

    feed = (Frame(k, 0.0, bad) if k % 2 else next(frames(1)) for k in range(100))
    counts = start(feed, Plan(first(), Sink(), newest=False, live=False), threading.Event(), Health())  # type: ignore[arg-type]
    assert (counts.came, counts.answered, counts.skipped) == (100, 50, 50)
    assert len(counts.reasons) == 20


@pytest.mark.parametrize("where", ["answer", "deliver", "feed"])
def test_errors_of_every_thread_end_it(where: str) -> None:
    def fail(*given: object) -> float:
        raise VerificationError("broken.", "Take another.")

    def feed() -> Iterator[Frame]:
        yield from frames(3)
        if where == "feed":
            fail()
        yield from frames(100)

    answer = fail if where == "answer" else first()
    plan = Plan(answer, fail if where == "deliver" else Sink(), newest=False, live=False)  # type: ignore[arg-type]
    stop = threading.Event()
    with pytest.raises(VerificationError, match="broken"):
        start(feed(), plan, stop, Health())
    assert stop.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream-")]


def test_a_source_that_breaks_in_the_middle_keeps_what_came_before() -> None:
    def feed() -> Iterator[Frame]:
        yield from frames(7)
        raise DataError("a.mp4: input/output error.", "Copy it again.")

    health, sink = Health(), Sink()
    counts = start(feed(), Plan(first(), sink, newest=False, live=False), threading.Event(), health)  # type: ignore[arg-type]
    assert counts.answered == 7
    assert health.lost == "a.mp4: input/output error."


def test_a_signal_ends_it_in_order() -> None:
    sink = Sink()

    def check() -> None:
        if len(sink.numbers) >= 5:
            raise Interrupted(signal.SIGTERM)

    endless = frames(10**9)
    plan = Plan(first(0.01), sink, newest=False, live=False)  # type: ignore[arg-type]
    counts = run(endless, plan, threading.Event(), Health(), check)
    assert counts.interrupted is not None
    assert counts.interrupted.exit_code == 143
    assert 5 <= counts.answered <= 7
    assert counts.came == counts.answered + counts.dropped
    assert next(endless, None) is None  # closed


def test_a_limit_ends_it() -> None:
    for newest in (True, False):
        counts = start(
            frames(1000, fps=10),
            Plan(first(), Sink(), newest=newest, live=False, limit=2.0),  # type: ignore[arg-type]
            threading.Event(),
            Health(),
        )
        assert counts.came == 20
        assert counts.limited


def test_a_driver_that_hangs_is_given_up() -> None:
    hang = threading.Event()

    def feed() -> Iterator[Frame]:
        yield from frames(2)
        hang.wait(20)

    health = Health()
    plan = Plan(first(), Sink(), newest=True, live=True, stall=0.3)  # type: ignore[arg-type]
    began = time.perf_counter()
    counts = start(feed(), plan, threading.Event(), health)
    hang.set()
    assert time.perf_counter() - began < 5
    assert counts.answered >= 1
    assert health.lost == "no frame came for 0.3 s"
