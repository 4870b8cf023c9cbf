"""What a phone is asked to run, and what comes back: one phone, one job at a time.

The thread that measures puts a job and waits (:meth:`Jobs.run`); the routes lease it to the phone and hand in what it
posts. A phone that goes silent loses its lease, and gets the job again when it is back; the page that a phone has
reloaded takes over from the one before. Another phone is refused, so that the rows of a run are all of one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketvit.errors import PocketvitError, VerificationError
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.phone.messages import Failed, Hello, Progress

LEASE_S = 20.0
"""A phone that says nothing for so long is gone; pages say something every two seconds."""
STALL_S = 300.0
"""Longest time without any progress of a page that still answers."""
MOST_TRIES = 3
"""Times that a phone may lose a job: a browser ends pages that take too much memory."""
TICK_S = 0.1
Advance = Callable[..., None]


@dataclass(eq=False)
class Job:
    """One thing to do. ``told`` is what the phone gets of it, and ``files`` what it may fetch, by SHA-256."""

    kind: str
    """``run``: one input, and its outputs come back; ``time``: rows come back."""
    label: str
    told: dict[str, Any]
    files: Mapping[str, bytes]
    check: Callable[[Any], Any] = lambda found: found
    """Holds what was posted against what was asked for; raises :class:`Refusal`, and the job goes on."""
    total: int | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    session: str = ""
    """The page that has it; empty where none does."""
    leased: float = 0.0
    moved: float = 0.0
    """When it was leased, and when it last came forward."""
    tries: int = 0
    done: int = 0
    note: str = ""
    result: Any = None
    failed: Failed | None = None

    @property
    def ended(self) -> bool:
        """Whether an answer or an error has come."""
        return self.result is not None or self.failed is not None

    def document(self) -> dict[str, Any]:
        """What the phone is told."""
        return {"id": self.id, "kind": self.kind, "label": self.label, **self.told}


class Jobs:
    """The desk between the thread that measures and the routes; each of its methods may be called from any thread."""

    def __init__(
        self,
        wait_seconds: float,
        notify: Callable[[str], None],
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hello: Hello | None = None
        """Of the phone that is here, or was."""
        self.closed = self.told_closed = False
        self._wait_s, self._notify, self._lease_s, self._clock = wait_seconds, notify, lease_s, clock
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._session, self._seen, self._measured = "", clock(), False

    @property
    def here(self) -> bool:
        """Whether a phone has said something lately."""
        return self.hello is not None and self._clock() - self._seen <= self._lease_s

    # What the phone does.

    def greet(self, hello: Hello) -> str:
        """A page has opened: the session it must name from now on.

        Raises:
            Refusal: 409, another phone is being measured; 410, all is done.
        """
        with self._changed:
            self._check_open()
            known = self.hello
            if known is not None and known.phone != hello.phone:
                gone = self._clock() - self._seen > self._lease_s
                if not gone or (self._measured and known.kind != hello.kind):
                    raise Refusal(409, "another phone is being measured; close the page there, or start the run anew.")
            if known is None or known.kind != hello.kind or known.phone != hello.phone:
                self._notify(f"the phone is here: {hello.told()}")
            self._release("its page was opened anew")
            self.hello, self._session, self._seen = hello, secrets.token_hex(16), self._clock()
            self._changed.notify_all()
            return self._session

    def next(self, session: str) -> Job | None:
        """The job that waits, which is the page's from now on; None where none does."""
        with self._changed:
            self._check_session(session)
            job = self._job
            if job is None or job.ended:
                return None
            if job.session != session:
                job.session, job.leased, job.moved = session, self._clock(), self._clock()
                job.done, job.tries = 0, job.tries + 1
            return job

    def leased(self, session: str, job_id: str) -> Job:
        """The job of this id, which the page must have.

        Raises:
            Refusal: 409, it has not, or no longer.
        """
        with self._changed:
            self._check_session(session)
            job = self._job
            if job is None or job.id != job_id or job.session != session or job.ended:
                raise Refusal(409, "this is not the page's job, or no longer; ask for the next one.")
            return job

    def progress(self, session: str, job_id: str, at: Progress) -> None:
        """The page is still there, and so far."""
        job = self.leased(session, job_id)
        with self._changed:
            if (at.done, at.note) != (job.done, job.note):
                job.done, job.note, job.moved = at.done, at.note, self._clock()

    def seconds(self, job: Job) -> float:
        """Since the page has had the job."""
        return self._clock() - job.leased

    def finish(self, session: str, job_id: str, found: Any) -> None:
        """An answer, held against what was asked for. Raises Refusal: it is none."""
        job = self.leased(session, job_id)
        result = job.check(found)
        with self._changed:
            job.result, self._measured = result, True
            self._changed.notify_all()

    def fail(self, session: str, job_id: str, failed: Failed) -> None:
        """The page could not do it; what may be otherwise next time is tried again."""
        job = self.leased(session, job_id)
        with self._changed:
            if failed.kind == "download" and job.tries < MOST_TRIES:
                self._notify(f"{job.label}: the phone did not get its files ({failed.text}); it tries again")
                job.session = ""
            else:
                job.failed = failed
            self._changed.notify_all()

    # What the measuring thread does.

    def run(self, job: Job, advance: Advance = lambda count=1, note="": None) -> Any:
        """Have a job done.

        Args:
            job: what to do.
            advance: called with what has come forward, for a progress bar.

        Raises:
            VerificationError: it fails on the phone.
            PocketvitError: no phone comes, or it goes away and does not come back.
        """
        began, shown = self._clock(), 0
        with self._changed:
            self._job = job
            try:
                while not job.ended:
                    if not job.session and self._clock() - max(began, self._seen) > self._wait_s:
                        raise self._nobody(job)
                    self._changed.wait(TICK_S)
                    self._look(job)
                    if job.done != shown:
                        advance(job.done - shown, job.note)
                        shown = job.done
            finally:
                self._job = None
        if job.failed is not None:
            raise _failure(job, job.failed)
        return job.result

    def close(self) -> None:
        """All is done; the page is told when it asks next."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _look(self, job: Job) -> None:
        """Take the job from a page that is gone, and give up one that stands still or loses it again and again."""
        now = self._clock()
        if job.ended or not job.session:
            return
        if now - self._seen > self._lease_s:
            self._notify(f"the phone has gone silent during {job.label}: open the page there again, and keep it open")
            self._release("it has gone silent")
        elif now - job.moved > STALL_S:
            job.failed = Failed(kind="stalled", text=f"nothing came forward for {STALL_S:.0f} s")

    def _release(self, why: str) -> None:
        """The job goes back to wait for a page; given up where that has happened too often."""
        job = self._job
        if job is None or not job.session or job.ended:
            return
        job.session = ""
        if job.tries >= MOST_TRIES:
            job.failed = Failed(kind="lost", text=f"{why}, {job.tries} times; browsers end pages that need much memory")

    def _check_open(self) -> None:
        if self.closed:
            self.told_closed = True
            raise Refusal(410, "all is done; the page can be closed.")

    def _check_session(self, session: str) -> None:
        self._check_open()
        if not self._session or not secrets.compare_digest(session.encode(), self._session.encode()):
            raise Refusal(409, "another page has taken over; load this one again to go on here.")
        self._seen = self._clock()

    def _nobody(self, job: Job) -> PocketvitError:
        ever = "no phone has come" if self.hello is None else "the phone went away and has not come back"
        what = f"{ever} within {self._wait_s:g} s; {job.label} waits for it."
        todo = "Open the address that was printed, in the same network; a longer wait is contact.wait_seconds."
        return PocketvitError(what, todo)


_KINDS = {
    "memory": "the phone has too little memory for it",
    "open": "the phone's engine cannot open it",
    "run": "the phone's engine fails on it",
    "download": "the phone did not get its files",
    "clock": "it is too fast for the clock of the browser",
    "stalled": "the phone stands still",
    "lost": "the page was lost",
}


def _failure(job: Job, failed: Failed) -> VerificationError:
    words = " ".join(failed.text.split())[:200]
    what = f"{job.label}: {_KINDS.get(failed.kind, 'the phone failed')} ({words})."
    return VerificationError(what, "Take a smaller model or another precision, or another browser on the phone.")
