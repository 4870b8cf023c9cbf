"""The desk between the thread that measures and a phone: leases, silence, reloads, other phones, and giving up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pocketvit.errors import PocketvitError, VerificationError
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.phone.jobs import LEASE_S, MOST_TRIES, STALL_S, Job, Jobs
from pocketvit.serve.phone.messages import Failed, Hello, Progress


def hello(phone: str = "phone-one", **fields: Any) -> Hello:
    return Hello(**{"phone": phone, "user_agent": "A phone", "cores": 8, "isolated": True} | fields)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Measuring:
    """A thread that has a job done."""

    jobs: Jobs
    job: Job
    told: list[str]
    clock: Clock
    found: list[Any] = field(default_factory=list)
    errors: list[PocketvitError] = field(default_factory=list)
    seen: list[tuple[int, str]] = field(default_factory=list)

    def work(self) -> None:
        try:
            self.found.append(self.jobs.run(self.job, lambda count=1, note="": self.seen.append((count, note))))
        except PocketvitError as error:
            self.errors.append(error)

    def until(self, ready: Any) -> None:
        end = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < end
            time.sleep(0.005)


@contextmanager
def measuring(job: Job, wait_seconds: float = 60.0) -> Iterator[Measuring]:
    told, clock = list[str](), Clock()
    jobs = Jobs(wait_seconds, told.append, clock=clock)
    run = Measuring(jobs, job, told, clock)
    thread = threading.Thread(target=run.work, daemon=True)
    thread.start()
    yield run
    thread.join(5)
    assert not thread.is_alive()


def a_job(**fields: Any) -> Job:
    return Job("time", "timing of a file", {"threads": 2}, {"sha": b"content"}, **fields)


def test_a_job_goes_to_the_phone_and_its_answer_comes_back() -> None:
    with measuring(a_job(check=lambda found: found * 2)) as run:
        session = run.jobs.greet(hello())
        run.until(lambda: run.jobs.next(session))
        job = run.jobs.next(session)
        assert job is run.job, "asked again, a page gets the job that it has"
        assert job.tries == 1
        assert job.document() == {"id": job.id, "kind": "time", "label": "timing of a file", "threads": 2}
        run.jobs.progress(session, job.id, Progress(done=3, note="rounds"))
        run.until(lambda: run.seen)
        run.jobs.finish(session, job.id, 21)
    assert (run.found, run.seen) == ([42], [(3, "rounds")])
    assert run.jobs.next(session) is None
    assert run.told == ["the phone is here: A phone; 8 cores, threads"]


def test_a_silent_phone_loses_its_job_and_gets_it_again() -> None:
    with measuring(a_job()) as run:
        session = run.jobs.greet(hello())
        run.until(lambda: run.jobs.next(session))
        run.clock.now += LEASE_S + 1
        run.until(lambda: not run.job.session)
        with pytest.raises(Refusal, match="no longer"):
            run.jobs.finish(session, run.job.id, 1)
        assert run.jobs.next(session) is run.job
        run.jobs.finish(session, run.job.id, 2)
    assert run.found == [2]
    assert "has gone silent during timing of a file" in run.told[-1]


def test_a_page_that_is_loaded_again_takes_over() -> None:
    with measuring(a_job()) as run:
        first = run.jobs.greet(hello())
        run.until(lambda: run.jobs.next(first))
        second = run.jobs.greet(hello())
        with pytest.raises(Refusal, match="another page has taken over"):
            run.jobs.next(first)
        with pytest.raises(Refusal, match="another page has taken over"):
            run.jobs.finish(first, run.job.id, 1)
        assert run.jobs.next(second) is run.job
        run.jobs.finish(second, run.job.id, 2)
    assert run.found == [2]
    assert len(run.told) == 1, "the same phone is told of once"


def test_a_page_that_is_lost_again_and_again_fails_the_file() -> None:
    with measuring(a_job()) as run:
        for _ in range(MOST_TRIES):
            session = run.jobs.greet(hello())
            run.until(lambda session=session: run.jobs.next(session))
        run.jobs.greet(hello())
    (error,) = run.errors
    assert isinstance(error, VerificationError)
    assert "the page was lost (its page was opened anew, 3 times" in error.what


def test_other_phones_are_refused() -> None:
    with measuring(a_job()) as run:
        session = run.jobs.greet(hello())
        with pytest.raises(Refusal, match="another phone is being measured"):
            run.jobs.greet(hello("phone-two"))
        run.until(lambda: run.jobs.next(session))
        run.jobs.finish(session, run.job.id, 1)
        run.clock.now += LEASE_S + 1
        with pytest.raises(Refusal, match="another phone is being measured"):
            run.jobs.greet(hello("phone-two", user_agent="Another kind"))  # rows of two would be mixed
        assert run.jobs.greet(hello("phone-two")), "one of the same kind may go on for one that is gone"


@pytest.mark.parametrize("came", [True, False])
def test_nobody_there(came: bool) -> None:
    with measuring(a_job(), wait_seconds=60) as run:
        run.until(lambda: run.jobs._job)
        if came:
            run.jobs.greet(hello())
        run.clock.now += 61
    (error,) = run.errors
    assert not isinstance(error, VerificationError), "it says nothing about the file"
    assert ("went away and has not come back within 60 s" if came else "no phone has come within 60 s") in error.what


def test_standing_still_and_what_is_tried_again() -> None:
    with measuring(a_job()) as run:
        session = run.jobs.greet(hello())
        run.until(lambda: run.jobs.next(session))
        for _ in range(int(STALL_S // 10) + 1):  # it says something, and always the same
            run.clock.now += 10
            try:
                run.jobs.progress(session, run.job.id, Progress(done=5))
            except Refusal:
                break
            if run.clock.now < 130:
                run.job.moved = 100.0
    assert "stands still" in run.errors[0].what
    with measuring(a_job()) as run:
        session = run.jobs.greet(hello())
        for number in range(MOST_TRIES):
            run.until(lambda: run.jobs.next(session))
            assert run.job.tries == number + 1
            run.jobs.fail(session, run.job.id, Failed(kind="download", text="its checksum is another"))
    assert "did not get its files (its checksum is another)" in run.errors[0].what
    assert len(run.told) == MOST_TRIES


def test_at_the_end_pages_are_told() -> None:
    jobs = Jobs(1.0, lambda line: None)
    session = jobs.greet(hello())
    jobs.close()
    with pytest.raises(Refusal) as refused:
        jobs.next(session)
    assert (refused.value.status, jobs.told_closed) == (410, True)
    with pytest.raises(Refusal):
        jobs.greet(hello())
