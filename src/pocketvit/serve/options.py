"""What the options of ``serve`` are, in groups: limits, updates, watch. Nothing heavy is imported for ``--help``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketvit.errors import UsageError
from pocketvit.spec.environment import available_cores
from pocketvit.spec.typed import Range, check_ranges


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may ask of a server."""

    workers: int = field(default_factory=available_cores)
    """Inferences at once; the number of cores by default."""
    queue: int = 32
    """Inferences that may wait; beyond them clients get 429 and are told when to come again."""
    max_body_mb: float = 32.0
    """MB of a request's body."""
    max_megapixels: float = 32.0
    """Megapixels of an image, by its header: it is checked before anything is decoded."""
    max_held_mb: float = 512.0
    """MB of all bodies together."""
    body_seconds: float = 30.0
    """Seconds for a body to arrive."""
    request_seconds: float = 60.0
    """Seconds for an answer, waiting included, from when the body is there."""

    grace_seconds: float = 30.0
    """Seconds that running and waiting requests get when the server is to end."""

    def __post_init__(self) -> None:
        counts = {"workers": Range(1, 256), "queue": Range(0, 100_000), "grace_seconds": Range(0, 1e6)}
        above = {name: Range(0, 1e6, above=True) for name in vars(self) if name not in counts}
        check_ranges("limits", self, counts | above)
        if self.max_held_mb < self.max_body_mb:
            what = f"limits.max_held_mb {self.max_held_mb:g} is less than max_body_mb {self.max_body_mb:g}."
            raise UsageError(what, "No body of that size could ever be read: raise the one or lower the other.")


@dataclass(frozen=True)
class Updates:
    """Where new versions come from, and who may have signed them."""

    channel: tuple[str, ...] = ()
    """Folders or addresses that pocketvit publish writes to; NAME=WHERE where several artifacts are served."""
    key: tuple[str, ...] = ()
    """Files of public keys, any of which must have signed."""
    folder: str | None = None
    """Where versions are kept, for this server alone; ~/.local/share/pocketvit/updates by default."""
    seconds: float = 300.0
    """Seconds between two looks."""
    token_file: str | None = None
    """File with the bearer token that the channels want."""

    def __post_init__(self) -> None:
        check_ranges("updates", self, {"seconds": Range(0, 1e7, above=True)})
        given = [name for name in ("key", "folder", "token_file") if getattr(self, name)]
        if not self.channel and given:
            what = f"updates.{given[0]} goes with --updates.channel."
            raise UsageError(what, "Leave it out, or name the channel with --updates.channel.")
        if self.channel and not self.key:
            todo = "Name the publisher's .pub file with --updates.key: nothing unsigned is taken."
            raise UsageError("updates: no public key is given.", todo)

    def channel_of(self, names: Sequence[str]) -> dict[str, str]:
        """Name of an artifact -> its channel.

        Raises:
            UsageError: a channel is for none of these artifacts, for one twice, or it is not said for which.
        """
        found: dict[str, str] = {}
        for text in self.channel:
            name, where = text.partition("=")[::2]
            if name not in names:  # an address may hold a = too
                name, where = names[0], text
                if len(names) > 1:
                    what = f"updates.channel {text!r}: is not said to be of one of {', '.join(names)}."
                    raise UsageError(what, f"Write NAME=WHERE, e.g. {names[0]}={text.partition('=')[2] or text}.")
            if name in found:
                raise UsageError(f"updates.channel: {name} is given two channels.", "An artifact follows one.")
            found[name] = where
        return found


@dataclass(frozen=True)
class Watch:
    """Statistics of requests and answers, compared over time."""

    folder: str | None = None
    """Folder or SQLite file that they are kept in; nothing is watched without it."""
    reference: str | None = None
    """Folder of photos like those that are expected, to compare with; by default the first requests."""
    alert_url: str | None = None
    """Address that is told by POST when a statistic drifts."""

    def __post_init__(self) -> None:
        for name in ("reference", "alert_url"):
            if getattr(self, name) is not None and self.folder is None:
                raise UsageError(f"watch.{name} goes with --watch.folder.", "Add --watch.folder, or leave it out.")
