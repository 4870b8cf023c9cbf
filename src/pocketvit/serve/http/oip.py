"""Tensors of the Open Inference Protocol (version 2, REST): requests to arrays, arrays to responses.

Data are JSON arrays, flat or nested, or raw bytes behind the JSON (the extension ``binary_tensor_data``, which is what
Triton's client sends by default): the header ``Inference-Header-Content-Length`` says where the JSON ends.
Not offered are shared memory, batches and Triton's classification of outputs: they are refused and not ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.serve.http.refusal import Refusal
from pocketvit.spec.tasks.base import TensorSpec

EXTENSIONS = ["binary_tensor_data"]
DATATYPES = {
    **{"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"},
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
"""NumPy's names to the protocol's."""
MAX_JSON = 16_000_000
"""Bytes of JSON: as Python objects they take many times as much. A larger tensor comes as binary data."""
_LENGTH = "Inference-Header-Content-Length"
_REFUSED = ("shared_memory_region", "classification", "sequence_id")


@dataclass(frozen=True)
class Question:
    """A request that was read and held against the manifest."""

    id: str | None
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, bool]
    """Which outputs are wanted, and whether as binary data."""


def read_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Question:
    """The arrays of a request, of the names, datatypes and shapes that the manifest states.

    Raises:
        Refusal: 400 what is not such a request, 413 too much JSON.
    """
    end = _json_end(body, header_length)
    if end > MAX_JSON:
        raise Refusal(413, f"more than {MAX_JSON / 1e6:g} MB of JSON; send large tensors as binary data.")
    document = _object(_parse(body[:end]), "the request")
    _check_parameters(document)
    rest = memoryview(body)[end:]
    arrays: dict[str, NDArray[Any]] = {}
    for entry in _list(document.get("inputs"), "inputs"):
        spec = _named(entry, inputs, "input")
        if spec.name in arrays:
            raise Refusal(400, f"input {spec.name!r} is given twice.")
        arrays[spec.name], rest = _tensor(entry, spec, rest)
    if missing := [spec.name for spec in inputs if spec.name not in arrays]:
        raise Refusal(400, f"input {missing[0]!r} is missing.")
    if len(rest):
        raise Refusal(400, f"{len(rest)} bytes of binary data belong to no input.")
    identity = document.get("id")
    if not isinstance(identity, str | None) or len(identity or "") > 1000:
        raise Refusal(400, "id must be a text of at most 1000 characters.")
    return Question(identity, arrays, _wanted(document, outputs))


def _json_end(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not header_length.isdecimal() or len(header_length) > 18 or int(header_length) > len(body):
        raise Refusal(400, f"{_LENGTH} must be a number of bytes within the body.")
    return int(header_length)


def _parse(text: bytes) -> Any:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply.") from None
    except ValueError as error:  # UnicodeDecodeError too, and numbers of thousands of digits
        raise Refusal(400, f"the body is not JSON ({' '.join(str(error).split())[:120]}).") from None


def _shown(value: Any) -> str:
    """A value of a request for an error: short, and of lists (which may be deep) only a few plain entries."""
    if isinstance(value, list):
        return f"[{', '.join(_shown(each) if not isinstance(each, list) else '[...]' for each in value[:6])}]"
    return repr(value)[:80] if isinstance(value, str | int | float | None) else type(value).__name__


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} must be a JSON object.")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 100:
        raise Refusal(400, f"{what} must be a list of at most 100 objects.")
    return value


def _named(entry: Any, specs: Sequence[TensorSpec], what: str) -> TensorSpec:
    """The tensor that an entry names, where there is one."""
    name = _object(entry, f"every {what}").get("name")
    for spec in specs:
        if spec.name == name:
            return spec
    raise Refusal(400, f"no {what} {_shown(name)}; there is {', '.join(spec.name for spec in specs)}.")


def _check_parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters")
    parameters = {} if parameters is None else _object(parameters, "parameters")
    if refused := [name for name in _REFUSED if parameters.get(name)]:
        raise Refusal(400, f"the parameter {refused[0]} is not offered here.")
    return parameters


def _tensor(entry: dict[str, Any], spec: TensorSpec, rest: memoryview) -> tuple[NDArray[Any], memoryview]:
    """An input's array, and the binary data behind it."""
    where = f"input {spec.name!r}"
    if entry.get("datatype") != DATATYPES[spec.dtype]:
        raise Refusal(400, f"{where} has datatype {DATATYPES[spec.dtype]}, not {_shown(entry.get('datatype'))}.")
    shape = _shape(entry.get("shape"), spec, where)
    size = _check_parameters(entry).get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise Refusal(400, f"{where} needs either data or the parameter binary_data_size.")
    if size is None:
        return _from_json(entry["data"], shape, np.dtype(spec.dtype), where), rest
    wanted = math.prod(shape) * np.dtype(spec.dtype).itemsize
    if isinstance(size, bool) or size != wanted or wanted > len(rest):
        text = f"{where} of shape {shape} takes {wanted} bytes; {_shown(size)} are stated, {len(rest)} are there."
        raise Refusal(400, text)
    array = np.frombuffer(rest[:wanted], np.dtype(spec.dtype).newbyteorder("<")).reshape(shape)
    return _finite(array.astype(spec.dtype), where), rest[wanted:]


def _shape(value: Any, spec: TensorSpec, where: str) -> list[int]:
    whole = isinstance(value, list) and len(value) == len(spec.shape) and all(type(n) is int for n in value)
    if not whole or any(n < 1 or n > 1 << 31 or want not in (-1, n) for n, want in zip(value, spec.shape)):
        raise Refusal(400, f"{where} has shape {spec.shape}, where -1 is any size; not {_shown(value)}.")
    return list(value)


def _from_json(data: Any, shape: list[int], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """Numbers of flat or nested lists. They are looked at before NumPy is, which would make texts of any length."""
    nested, level = list[int](), data
    if not isinstance(level, list):
        raise Refusal(400, f"data of {where} must be an array.")
    while True:
        nested.append(len(level) if not nested else len(level) // math.prod(nested))
        kinds = set(map(type, level))
        if kinds != {list}:
            break
        if len(set(map(len, level))) != 1 or len(nested) >= len(shape):
            raise Refusal(400, f"data of {where} must be flat, or nested as its shape {shape}.")
        level = list(chain.from_iterable(level))
    if len(level) != math.prod(shape) or (len(nested) > 1 and nested != shape):
        raise Refusal(400, f"data of {where} must hold {math.prod(shape)} numbers, flat or nested as {shape}.")
    if not kinds <= ({int} if dtype.kind in "iu" else {bool} if dtype.kind == "b" else {int, float}):
        kind = "whole numbers" if dtype.kind in "iu" else "true or false" if dtype.kind == "b" else "numbers"
        raise Refusal(400, f"data of {where} must be {kind}.")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= min(level) <= max(level) <= np.iinfo(dtype).max:
        limits = np.iinfo(dtype)
        raise Refusal(400, f"data of {where} must lie from {limits.min} to {limits.max}.")
    try:
        with np.errstate(over="ignore"):
            return _finite(np.array(level, dtype).reshape(shape), where)
    except OverflowError:
        raise Refusal(400, f"data of {where} does not fit {DATATYPES[str(dtype)]}.") from None


def _finite(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refusal(400, f"data of {where} holds NaN or infinity.")
    return array


def _wanted(document: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, bool]:
    """All outputs where none are named."""
    always = bool(_check_parameters(document).get("binary_data_output", False))
    wanted = {}
    for entry in _list(document.get("outputs") or [], "outputs"):
        spec = _named(entry, specs, "output")
        wanted[spec.name] = bool(_check_parameters(entry).get("binary_data", always))
    return wanted or {spec.name: always for spec in specs}


def write_response(
    question: Question, name: str, version: str, answers: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the response with the outputs that ``question`` wants.

    ``answers`` are by name; each becomes of the dtype that the manifest states. They must be finite.
    """
    outputs, blobs = list[dict[str, Any]](), list[bytes]()
    for spec in specs:
        if spec.name not in question.outputs:
            continue
        array = np.ascontiguousarray(answers[spec.name], spec.dtype)
        entry: dict[str, Any] = {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(array.shape)}
        if question.outputs[spec.name]:
            blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if question.id is not None:
        head["id"] = question.id
    text = json.dumps(head, allow_nan=False).encode()
    if not blobs:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(text))}
    return b"".join([text, *blobs]), headers


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol describes it."""
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)}
