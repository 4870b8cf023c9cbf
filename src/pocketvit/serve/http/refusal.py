"""What the server refuses to answer: an HTTP status, a sentence for the client, and headers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pocketvit.errors import DataError, MissingDependencyError, PocketvitError, UsageError

GONE = 499
"""Status in logs and metrics of requests whose client went away; nobody reads the answer."""


class Refusal(Exception):
    """A request that is not answered; ``text`` says why, and never where something lies on this machine."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text)
        self.status, self.text, self.headers = status, text, dict(headers or {})

    @property
    def body(self) -> bytes:
        """The Open Inference Protocol's error object."""
        return json.dumps({"error": self.text}).encode()


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error of reading an image or running a model.

    An image or number that cannot be used is the client's (4xx); all else is this server's and says no details.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MissingDependencyError):
        return Refusal(415, error.what)
    if isinstance(error, DataError):
        return Refusal(422, error.what)
    if isinstance(error, UsageError):
        return Refusal(400, f"{error.what} {error.todo}")
    if isinstance(error, MemoryError):
        return Refusal(503, "there is too little memory for this request now.", {"Retry-After": "5"})
    if isinstance(error, PocketvitError):
        return Refusal(503, "the model failed on this input.", {"Retry-After": "5"})
    return Refusal(500, "internal error.")
