"""A server that polls channels: which artifact follows which channel, and how a proven version comes to answer.

A :class:`Follower` holds one artifact's :class:`~pocketvit.serve.channels.channel.Channel` and the model that runs. It
opens what the channel says is current; after that ``switch`` loads a version and puts it in the place of the one
before, which finishes the requests that it has. Failures of the model count against the version that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pocketvit.errors import UsageError
from pocketvit.files import home_folder
from pocketvit.serve.channels.channel import Channel, Current
from pocketvit.serve.channels.signing import PublicKey, read_public
from pocketvit.serve.http.refusal import Refusal, refusal_of
from pocketvit.serve.http.served import Models, Served
from pocketvit.serve.http.services import Ran, Services
from pocketvit.serve.options import Updates
from pocketvit.serve.tokens import read_token
from pocketvit.spec.artifact import read_artifact

Load = Callable[[str], Served]
"""Opens an artifact by its path or name."""


class Follower:
    """One artifact that is kept up to date."""

    def __init__(self, artifact: str, where: str, keys: Sequence[PublicKey], load: Load, **options: Any) -> None:
        """Open the channel's folder and load what is to run.

        Args:
            artifact: what to fall back on.
            where: the channel.
            keys: those that are pinned.
            load: opens a version.
            options: those of :class:`Channel`.

        Raises:
            PocketvitError: as :class:`Channel` says, or nothing that is there can be loaded.
        """
        self._load, self.keys = load, list(keys)
        self._models: Models | None = None
        self.channel = Channel(where, keys, base=artifact, switch=self._switch, **options)
        try:
            self._begin()
        except BaseException:
            self.channel.close()
            raise

    def _begin(self) -> None:
        try:
            self._switch(self.channel.current)
        except Exception as error:
            if not self.channel.current.counter:
                raise
            self.channel.roll_back(f"it could not be loaded: {getattr(error, 'what', error)}")

    @property
    def served(self) -> Served:
        """What runs now."""
        return self._running[0]

    def follow(self, models: Models, interval_s: float) -> None:
        """Begin to poll; new versions take the place of the one before in ``models``."""
        self._models = models
        self.channel.start(interval_s)

    def watch(self, ran: Ran) -> None:
        """Count a run; too many that failed bring the version before back.

        What clients asked wrongly does not count, nor what was given up because they had waited too long: a server
        with too much to do is not helped by an older version.
        """
        served, current = self._running
        if ran.served is not served or isinstance(ran.error, Refusal):
            return
        if ran.error is None or refusal_of(ran.error).status >= 500:
            self.channel.report(ran.error is None, current)

    def _switch(self, current: Current) -> None:
        served = self._load(str(current.path))
        if self._models is not None:
            self._models.replace(served.name, served)
        self._running = served, current


def open_models(
    artifacts: Sequence[str], load: Load, updates: Updates, **options: Any
) -> tuple[list[Served], dict[str, Follower]]:
    """What is served at first, and the followers of those artifacts that have a channel, by name.

    ``options`` are those of :class:`Channel`: target, trust.

    Raises:
        PocketvitError: an artifact cannot be loaded; see also :class:`Follower`. UsageError: two versions of an
            artifact with a channel.
    """
    if not updates.channel:
        return [load(artifact) for artifact in artifacts], {}
    names = [read_artifact(artifact).manifest.name for artifact in artifacts]
    channels = updates.channel_of(list(dict.fromkeys(names)))
    origins = {urlsplit(where)[:2] for where in channels.values() if "://" in where}
    if updates.token_file is not None and len(origins) > 1:
        what = f"updates.token_file: would be sent to {len(origins)} servers."
        raise UsageError(what, "Follow channels of one server, or run a server for each.")
    for name in channels:
        if names.count(name) > 1:
            raise UsageError(f"{name}: has a channel and is given {names.count(name)} times.", "Give it once.")
    folder = updates.folder
    place = home_folder(".local/share/pocketvit/updates", "updates.folder") if folder is None else Path(folder)
    keys = [read_public(Path(key)) for key in updates.key]
    options["token"] = read_token(updates.token_file)
    followers: dict[str, Follower] = {}
    served = []
    try:
        for artifact, name in zip(artifacts, names, strict=True):
            if name in channels:
                own = {"folder": place / name, **options}
                followers[name] = Follower(artifact, channels[name], keys, load, **own)
                served.append(followers[name].served)
            else:
                served.append(load(artifact))
    except BaseException:
        close(followers)
        raise
    return served, followers


def follow(services: Services, followers: Mapping[str, Follower], updates: Updates) -> None:
    """Begin to poll for a server that answers with its followers' models."""
    services.channels = {name: follower.channel for name, follower in followers.items()}
    for follower in followers.values():
        services.update_keys = follower.keys  # the same for all, as they were read when their channels were opened
        services.watchers.append(follower.watch)
        follower.follow(services.models, updates.seconds)


def close(followers: Mapping[str, Follower]) -> None:
    """End polling, and let other processes have the folders."""
    for follower in followers.values():
        follower.channel.close()
