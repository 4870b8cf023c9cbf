from __future__ import annotations

from pocketvit.serve.channels.watch import ErrorWatch, Limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_too_many_errors_are_told_once_and_only_after_a_switch() -> None:
    watch = ErrorWatch(Limits(error_rate=0.25, least_reports=8))
    assert [watch.count(False) for _ in range(20)] == [""] * 20  # nothing to roll back to
    watch.begin(armed=True)
    answers = [True] * 6 + [False] * 2
    assert [watch.count(ok) for ok in answers] == [""] * 8  # a quarter is allowed
    assert watch.count(False) == "3 of 9 answers failed within 60 s"
    assert watch.count(False) == ""
    watch.begin(armed=True)
    assert [watch.count(False) for _ in range(7)] == [""] * 7
    assert watch.count(False) == "8 of 8 answers failed within 60 s"


def test_old_answers_do_not_count() -> None:
    clock = Clock()
    watch = ErrorWatch(Limits(error_rate=0.5, window_s=10, least_reports=4), clock)
    watch.begin(armed=True)
    for second in range(0, 300, 5):  # three at a time in the window, all wrong
        clock.now = float(second)
        assert watch.count(False) == ""
    clock.now = 1000.0
    assert [watch.count(True) for _ in range(3)] == [""] * 3
    assert [watch.count(False) for _ in range(3)] == [""] * 3
    assert watch.count(False) == "4 of 7 answers failed within 10 s"
