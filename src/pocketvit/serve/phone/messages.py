"""What a phone may post, each field with its limits: NaN, negative times and texts without end are refused."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from pocketvit.serve.http.refusal import Refusal
from pocketvit.spec.manifest import Manifest

MOST_FILES, MOST_ROUNDS = 16, 400_000
DAY_MS = 86_400_000.0
Ms = Annotated[FiniteFloat, Field(ge=0, le=DAY_MS)]
Rounds = Annotated[list[Ms], Field(min_length=1, max_length=MOST_ROUNDS)]
HEADER = struct.Struct("<I")
MOST_HEADER = 4096


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Hello(_Strict):
    """A page that has opened tells where it runs."""

    phone: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$", description="The browser's own mark, kept over reloads.")
    user_agent: str = Field(max_length=512)
    platform: str = Field(default="", max_length=128)
    cores: int | None = Field(default=None, ge=1, le=4096)
    memory_gb: FiniteFloat | None = Field(default=None, ge=0, le=4096, description="As the browser rounds it.")
    isolated: bool = Field(description="Cross-origin isolated: without it there is one thread.")
    webgpu: bool = False
    screen: str = Field(default="", max_length=32)
    app: str = Field(default="", max_length=64, description="Version of the page.")

    @property
    def kind(self) -> tuple[str, str, int | None]:
        """What two phones of one kind have in common."""
        return self.user_agent, self.platform, self.cores

    def told(self) -> str:
        """For the terminal; what the phone calls itself is not printed as it comes."""
        agent = "".join(c for c in self.user_agent if c.isprintable())[:120]
        cores = f"{self.cores} cores" if self.cores else "cores not told"
        threads = "threads" if self.isolated else "one thread alone: the page is not cross-origin isolated"
        return f"{agent}; {cores}, {threads}"


class Progress(_Strict):
    """How far a job is, and that the page is still there."""

    done: int = Field(ge=0, le=10**12)
    note: str = Field(default="", max_length=120)


class Failed(_Strict):
    """Why a job could not be done."""

    kind: Literal["memory", "open", "run", "download", "clock", "other", "stalled", "lost"]
    text: str = Field(max_length=1000)


class Engine(_Strict):
    """What ran the files."""

    name: Literal["onnxruntime-web"]
    version: str = Field(max_length=40, pattern=r"^[\w.+-]+$")
    backend: Literal["wasm", "webgpu"]
    threads: int = Field(ge=1, le=1024)
    simd: bool = True


class FileTimes(_Strict):
    """The rounds of one file, in ms, and when each ended."""

    pre: Rounds
    infer: Rounds
    post: Rounds
    at: Rounds


class Rows(_Strict):
    """The answer to a job of kind ``time``."""

    engine: Engine
    files: list[FileTimes] = Field(min_length=1, max_length=MOST_FILES)


Message = TypeVar("Message", bound=BaseModel)


def parsed(kind: type[Message], body: bytes) -> Message:
    """A message of JSON.

    Raises:
        Refusal: 400, which names the first field that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise Refusal(400, f"{where or kind.__name__.lower()}: {first['msg'][:200]}") from error


def check_rows(rows: Rows, files: int, least: int, seconds: float) -> None:
    """Raise ``Refusal`` unless rows are of so many files and rounds, and fit into the seconds that have passed."""
    if len(rows.files) != files:
        raise Refusal(400, f"files: {len(rows.files)} were timed, {files} were asked for.")
    lengths = {len(part) for times in rows.files for part in (times.pre, times.infer, times.post, times.at)}
    if len(lengths) != 1 or min(lengths) < least:
        raise Refusal(
            400, f"files: the rounds are {sorted(lengths)[:4]}, and should be as many of each, at least {least}."
        )
    for times in rows.files:
        if any(later < earlier for earlier, later in zip(times.at, times.at[1:], strict=False)):
            raise Refusal(400, "files: the rounds are not in order.")
    spent = sum(sum(part) for times in rows.files for part in (times.pre, times.infer, times.post))
    if max(spent, *(times.at[-1] for times in rows.files)) > 1e3 * (1.05 * seconds + 1):
        raise Refusal(400, f"files: more milliseconds were counted than the {seconds:.0f} s that have passed.")


def unframed(body: bytes, manifest: Manifest, size: tuple[int, ...]) -> tuple[Engine, dict[str, NDArray[np.float32]]]:
    """The answer to a job of kind ``run``: engine and outputs.

    Args:
        body: length of the header (uint32), the header as JSON (``engine``; ``outputs`` as a list of [name, shape]),
            and the outputs' values one after the other, float32; all little-endian.
        manifest: names and shapes of the outputs.
        size: shape of the input, which gives the sizes that the manifest leaves free.

    Raises:
        Refusal: 400, it is not that.
    """
    header, offset = _header(body)
    engine, found = header.engine, dict[str, NDArray[np.float32]]()
    stated = {name: tuple(shape) for name, shape in header.outputs}
    for spec in manifest.outputs:
        free = size if len(size) == len(spec.shape) else spec.shape
        wanted = tuple(have if n == -1 else n for have, n in zip(free, spec.shape, strict=True))
        if stated.get(spec.name) != wanted:
            raise Refusal(400, f"output {spec.name[:80]} is {stated.get(spec.name)}, and should be {wanted}.")
    for name, shape in header.outputs:
        count = math.prod(shape)
        if name in found or offset + 4 * count > len(body):
            raise Refusal(400, "the outputs are shorter than their header says.")
        found[name] = np.frombuffer(body, "<f4", count, offset).reshape(shape).astype(np.float32)
        offset += 4 * count
    if offset != len(body) or len(found) != len(manifest.outputs):
        raise Refusal(400, "there are more outputs than the model has.")
    return engine, found


class _Header(_Strict):
    engine: Engine
    outputs: list[tuple[str, list[Annotated[int, Field(ge=1, le=2**20)]]]] = Field(min_length=1, max_length=64)


def _header(body: bytes) -> tuple[_Header, int]:
    if len(body) < HEADER.size:
        raise Refusal(400, "the outputs have no header.")
    (length,) = HEADER.unpack_from(body)
    if not 0 < length <= MOST_HEADER or HEADER.size + length > len(body):
        raise Refusal(400, "the header of the outputs is damaged.")
    return parsed(_Header, body[HEADER.size : HEADER.size + length]), HEADER.size + length


def framed(engine: Engine, outputs: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The inverse of :func:`unframed`, for clients in Python."""
    shapes = [[name, list(value.shape)] for name, value in outputs.items()]
    header = json.dumps({"engine": engine.model_dump(), "outputs": shapes}).encode()
    values = b"".join(np.ascontiguousarray(value, "<f4").tobytes() for value in outputs.values())
    return HEADER.pack(len(header)) + header + values
