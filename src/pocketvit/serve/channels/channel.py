"""The receiving side of model updates: polls a channel, and lets nothing run that was not proven first.

    channel = Channel("https://example.org/models/denoiser", [read_public(Path("release.pub"))],
                      folder=Path("state"), base="denoise-photo", switch=swap_in)
    swap_in(channel.current)            # what ran when this machine was last up, or ``base``
    channel.start(interval_s=300)
    ...
    channel.report(ok)                  # of each answer, from the thread that made it

A new version must be signed by a pinned key, have a higher counter than any seen before, be byte for byte what was
signed, be of the same name and task, and give its golden answers here. Then ``switch`` is called. Where it fails later
(see :meth:`Channel.report`), the version before it comes back, and the failed one is not taken again.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.errors import DataError, PocketvitError, UsageError, VerificationError
from pocketvit.serve.channels.golden import check_golden
from pocketvit.serve.channels.signing import DESCRIPTION, MAX_DESCRIPTION_BYTES, PublicKey, Signed, opened
from pocketvit.serve.channels.store import Current as Current
from pocketvit.serve.channels.store import Store, Taken, hold_artifact
from pocketvit.serve.channels.transport import place_of
from pocketvit.serve.channels.watch import ErrorWatch, Limits
from pocketvit.spec.artifact import read_artifact, unpack

LONGEST_WAIT_S = 3600.0
log = logging.getLogger("pocketvit.serve")


@dataclass(frozen=True)
class Outcome:
    """What came of one poll that met no error."""

    switched: bool
    detail: str


class Channel:
    """One artifact, kept up to date. All methods may be called from any thread; one process per ``folder``."""

    def __init__(
        self,
        where: str,
        keys: Sequence[PublicKey],
        *,
        folder: Path,
        base: str | os.PathLike[str],
        switch: Callable[[Current], None] = lambda current: None,
        token: str = "",
        target: str | None = None,
        trust: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        check: Callable[[Path], None] | None = None,
    ) -> None:
        """Open the receiver's folder and find what is to be run; nothing is fetched yet.

        Every byte of the version that ran last is held against its signed description; where it does not pass, or its
        key is no longer pinned, the one before is taken, and at last ``base``. ``switch`` is not called for that.

        Args:
            where: folder or http(s) address with ``channel.json``.
            keys: the pinned public keys; any one of them must have signed.
            folder: where versions and state are kept, one for each artifact.
            base: the artifact to fall back on; name and task of updates must be its own.
            switch: called with a proven version; it loads it and lets it answer from then on, or raises and leaves
                what runs as it is. It is also called with an older one on a roll back.
            token: bearer token for the address.
            target: the variant that runs, for the golden check; by default all that this machine can run.
            trust: also take files that are programs (TorchScript).
            limits: see :class:`~pocketvit.serve.channels.watch.Limits`.
            check: raises where an unpacked artifact may not run; by default the golden check in its own process.

        Raises:
            UsageError: no key; the folder is in use or of another artifact; the address is none.
            VerificationError: ``base`` or the folder's state are damaged. DataError: the folder cannot be written.
            MissingDependencyError: the extra "serve" is not installed.
        """
        if not keys:
            raise UsageError("no public key is pinned.", "Name the .pub file of who publishes.")
        self._stop = threading.Event()
        self._place = place_of(where, token, limits.stall_s, limits.download_s)
        self._where, self._keys, self._limits, self._call = where, tuple(keys), limits, switch
        golden = functools.partial(check_golden, target=target, trust=trust, timeout_s=limits.check_s, stop=self._stop)
        self._check = golden if check is None else check
        artifact = read_artifact(base)
        self._task = artifact.manifest.task
        self._base = Current(artifact.path, artifact.manifest.name, artifact.manifest.version, 0)
        self._lock = threading.RLock()
        """Around every change of what runs."""
        self._polling = threading.Lock()
        self._watch = ErrorWatch(limits)
        self._thread: threading.Thread | None = None
        self._last: dict[str, Any] = {"polled": None, "error": None}
        self._store = Store(folder, self._base.name)
        try:
            self._current = self._recover()
        except BaseException:
            self._store.close()
            raise

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def current(self) -> Current:
        """What is to be run now."""
        return self._current

    def status(self) -> dict[str, Any]:
        """What people and metrics may want to know, in plain JSON types."""
        state, current = self._store.state, self._current
        return {
            "channel": self._where,
            "name": current.name,
            "version": current.version,
            "counter": current.counter,
            "highest": state.highest,
            "previous": state.previous.counter if state.previous else 0,
            "refused": dict(state.refused),
            **self._last,
        }

    def poll(self) -> Outcome:
        """Look once, and take a newer version if there is one that passes.

        Raises:
            VerificationError: what is there is not signed by a pinned key, older than what was seen, changed, or fails
                its checks; what runs stays. DataError: the place cannot be reached or the disk is full; the same.
        """
        with self._polling:
            signed = self._fetch()
            if news := self._nothing_new(signed):
                return Outcome(False, news)
            taken = self._take(signed)
            with self._lock:
                self._switch(taken, signed)
            return Outcome(True, f"{self._current.name} {self._current.version} (counter {taken.counter})")

    def report(self, ok: bool, answered: Current | None = None) -> None:
        """Count one answer; too many failures bring the version before the current one back.

        Only failures of the model or the server count as such, not those of clients (a damaged image), which the
        version before would have met too. The call that has one too many does the roll back, which takes as long as
        ``switch``: call it from a worker's thread, not from an event loop. It raises nothing.

        Args:
            ok: whether there was an answer.
            answered: the version that it was of; where another one runs by now, it does not count.
        """
        current = self._current
        if answered is not None and answered.path != current.path:
            return
        if reason := self._watch.count(ok):
            try:
                self.roll_back(reason, current)
            except Exception as error:
                log.error("%s: the roll back failed: %s", self._base.name, error)

    def roll_back(self, reason: str, blamed: Current | None = None) -> Current:
        """Bring the version before the current one back (at last ``base``), and never take the current one again.

        Args:
            reason: what is remembered of it.
            blamed: the version that is meant; where another one runs by now, nothing is done.

        Raises:
            UsageError: ``base`` runs already. VerificationError: nothing that is there can be switched to; what runs
            stays. DataError: the state cannot be written; the version before runs, until the next start.
        """
        with self._lock:
            state = self._store.state
            if self._stop.is_set():
                raise DataError(f"{self._base.name}: the channel is closed.", "Open it again.")
            if blamed is not None and blamed.path != self._current.path:
                return self._current
            if state.active is None:
                raise UsageError(f"{self._base.name}: there is no version to roll back from.", "Look at its log.")
            log.error("%s %s is rolled back: %s", self._current.name, self._current.version, reason)
            refusing = state.refusing(state.active.manifest_sha256, reason)
            unsaved: DataError | None = None
            for taken in dict.fromkeys((state.previous, None)):
                try:
                    back = self._base if taken is None else self._store.proven(taken, self._keys)
                    try:  # first, so that it is not started again where this process ends now
                        self._store.save(refusing.model_copy(update={"active": taken, "previous": None}), anyway=True)
                    except DataError as error:
                        unsaved = error
                    self._call(back)
                except Exception as error:
                    log.error("%s: %s cannot come back: %s", self._base.name, taken or "base", error)
                    continue
                self._current = back
                self._watch.begin(armed=False)
                if unsaved is not None:
                    raise unsaved
                self._prune()
                return back
            raise VerificationError(f"{self._base.name}: nothing could be rolled back to.", "Restart the server.")

    def _prune(self) -> None:
        """Delete what is no longer needed, unless a new version is being proven just now."""
        if self._polling.acquire(blocking=False):
            try:
                self._store.prune()
            finally:
                self._polling.release()

    def forgive(self) -> None:
        """Forget which versions were refused, so that they are taken again. Raises ``DataError``."""
        with self._lock:
            self._store.save(self._store.state.model_copy(update={"refused": {}}))

    def start(self, interval_s: float = 300.0) -> None:
        """Poll in the background: now, and every ``interval_s`` seconds; less often where it fails."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(interval_s,), name="channel", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End polling, and let other processes have the folder."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        with self._lock:
            self._store.close()

    def _run(self, interval_s: float) -> None:
        failures, told = 0, ""
        while not self._stop.is_set():
            error = self._try_poll()
            failures = failures + 1 if error else 0
            if error and error != told:
                log.warning("%s: %s", self._base.name, error)
            told = error
            wait = min(interval_s * 2 ** min(failures, 12), max(interval_s, LONGEST_WAIT_S))
            self._stop.wait(wait * random.uniform(0.9, 1.1))  # not all devices at once

    def _try_poll(self) -> str:
        """Poll; returns what went wrong, for nothing may end the thread."""
        error = ""
        try:
            outcome = self.poll()
            if outcome.switched:
                log.info("%s: now %s", self._base.name, outcome.detail)
        except PocketvitError as found:
            error = found.what
        except Exception as found:
            log.exception("%s: the channel failed", self._base.name)
            error = f"{type(found).__name__}: {found}"[:500]
        self._last = {"polled": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "error": error or None}
        return error

    def _recover(self) -> Current:
        """What is to be run after a start: the newest version that still passes, and the state that says so."""
        state = self._store.state
        found = self._base
        for taken in (state.active, state.previous):
            if taken is None:
                continue
            try:
                found = self._store.proven(taken, self._keys)
                break
            except VerificationError as error:
                log.error("%s: counter %d is not run: %s", self._base.name, taken.counter, error.what)
        else:
            taken = None
        if taken != state.active:
            self._store.save(state.model_copy(update={"active": taken, "previous": None}))
            self._store.prune()
        self._watch.begin(armed=taken is not None)
        return found

    def _fetch(self) -> Signed:
        """The channel's description, with a good signature."""
        where = f"{self._where}/{DESCRIPTION}"
        content = self._place.read(DESCRIPTION, MAX_DESCRIPTION_BYTES)
        if content is None:
            raise DataError(f"{where}: is not there.", "Publish to it, or check the address.")
        return opened(content, self._keys, where)

    def _nothing_new(self, signed: Signed) -> str:
        """Why there is nothing to do; empty where there is. A counter is remembered before anything else is done, so
        that nobody can come with an older version later.

        Raises:
            VerificationError: it is older than what was seen, or not for this artifact.
        """
        with self._lock:
            wanted, state = signed.description, self._store.state
            what, todo = f"{self._where}: {wanted.name} {wanted.version}", "It is not used, and what runs stays."
            if wanted.name != self._base.name:
                raise VerificationError(f"{what} is not {self._base.name}.", todo)
            seen = f"counter {wanted.counter}, but {state.highest} was seen before"
            if wanted.counter < state.highest:
                raise VerificationError(f"{what} is a downgrade ({seen}).", todo)
            if wanted.counter == state.highest and signed.payload_sha256 != state.highest_sha256:
                raise VerificationError(f"{what} has a counter that stands for another description ({seen}).", todo)
            if wanted.counter > state.highest:
                update = {"highest": wanted.counter, "highest_sha256": signed.payload_sha256}
                self._store.save(state.model_copy(update=update))
            if reason := state.refused.get(wanted.manifest_sha256):
                return f"{wanted.version} was refused before: {reason}"
            if state.active is None or state.active.manifest_sha256 != wanted.manifest_sha256:
                return ""
            if state.active.counter != wanted.counter:
                self._renew(state.active, signed)
            return f"{wanted.version} runs already"

    def _renew(self, active: Taken, signed: Signed) -> None:
        """What runs was published again: only its counter and its description are new."""
        self._store.write_description(active.folder, signed.content)
        renewed = active.model_copy(update={"counter": signed.description.counter})
        self._store.save(self._store.state.model_copy(update={"active": renewed}))
        self._current = self._store.proven(renewed, self._keys)

    def _take(self, signed: Signed) -> Taken:
        """Fetch, unpack and prove a version; what fails is deleted and, where it would fail again, remembered."""
        wanted = signed.description
        if wanted.pack.bytes > self._limits.pack_bytes:
            what = f"{wanted.pack.file}: has {wanted.pack.bytes} bytes; {self._limits.pack_bytes} are allowed here."
            raise VerificationError(what, "What runs stays; allow more, or publish a smaller one.")
        name = f"{wanted.counter:016d}-{wanted.manifest_sha256[:16]}"
        self._store.discard(name)
        incoming, folder = self._store.incoming, self._store.versions / name
        try:
            digest = self._place.download(wanted.pack.file, incoming, wanted.pack.bytes, self._stop)
            if digest != wanted.pack.sha256:
                what = f"{self._where}/{wanted.pack.file}: was changed: its sha256 is not the one that was signed."
                raise VerificationError(what, "It is not used, and what runs stays. Publish it again.")
            self._prove(incoming, folder, signed)
        except BaseException:
            self._store.discard(name)
            raise
        finally:
            incoming.unlink(missing_ok=True)
        return Taken(folder=name, **wanted.model_dump(include={"counter", "version", "manifest_sha256"}))

    def _prove(self, pack: Path, folder: Path, signed: Signed) -> None:
        """Unpack what was signed and run its checks; a version that fails here would fail again, and is refused."""
        try:
            unpack(pack, folder)
            artifact = hold_artifact(folder, signed)
            if artifact.manifest.task != self._task:
                what = f"{artifact.manifest.name} {artifact.manifest.version}: its task is {artifact.manifest.task}"
                raise VerificationError(f"{what}, not {self._task}.", "It is not used, and what runs stays.")
            self._check(folder)
        except VerificationError as error:
            if not isinstance(error.__cause__, OSError):  # that is about this machine, and may pass
                self._refuse(signed, error.what)
            raise

    def _refuse(self, signed: Signed, reason: str) -> None:
        with self._lock:
            self._store.save(self._store.state.refusing(signed.description.manifest_sha256, reason))

    def _switch(self, taken: Taken, signed: Signed) -> None:
        """Let a proven version run. Where the process ends within, the next start finds the one or the other."""
        before, state = self._current, self._store.state
        new = Current(self._store.path(taken), self._base.name, taken.version, taken.counter, signed.content)
        try:
            self._store.write_description(taken.folder, signed.content)
            self._call(new)
        except Exception as error:
            if isinstance(error, VerificationError):
                self._refuse(signed, error.what)
            self._store.discard(taken.folder)
            raise
        try:
            self._store.save(state.model_copy(update={"active": taken, "previous": state.active}))
        except BaseException:  # what runs and what is written must be the same
            self._call(before)
            self._store.discard(taken.folder)
            raise
        self._current = new
        self._watch.begin(armed=True)
        self._store.prune()
