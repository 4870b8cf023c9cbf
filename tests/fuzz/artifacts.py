"""Seeded fuzz of artifacts: mutated manifests, model files and goldens through ``verify`` and ``predict``.

    python -m tests.fuzz.artifacts --count 500 --seed 0

Cases run in chunks, each chunk in a process of its own, so that the death of one is seen and named. Checksums are made
to fit, as somebody would who covers up a change. A case is a finding where a command ends otherwise than with 0, 2, 3
or 4, where the process dies, or where ``verify`` passes and ``predict`` answers otherwise than the sound artifact does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.cli import main as command_line
from pocketvit.spec.artifact import sha256
from pocketvit.spec.images import read_image, write_image
from tests.tiny import make_tiny_artifact, photo

CHUNK = 20
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 10**30, -(10**30), 1e-300, 1e300, float("nan"), float("inf"), "", "x" * 5000, "\0",
    "..", "ü\u202e\U0001f600", "\ud800", [], {}, [[]], [1e9], {"a": {"b": []}}, "1", "fp32", ["x"] * 1000,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON document a value stands, from the top."""
    found = [path] if path else []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*path, key))
    return found


def mutate_json(rng: random.Random, text: str) -> str:
    """One value dropped, replaced, repeated or exchanged with another; or the text itself damaged."""
    document = json.loads(text)
    path, other = rng.choice(places(document)), rng.choice(places(document))
    parents = []
    for one in (path, other):
        parent = document
        for key in one[:-1]:
            parent = parent[key]
        parents.append(parent)
    (parent, key), kind = (parents[0], path[-1]), rng.randrange(7)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key], parents[1][other[-1]] = parents[1][other[-1]], None
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif kind == 3:
        name = json.dumps(rng.choice(list(document)))
        return text.replace(name + ":", f"{name}: null, {name}:", 1)
    elif kind == 4:
        return mutate_bytes(rng, text.encode()).decode(errors="surrogateescape")
    else:
        parent[key] = rng.choice(ODD_VALUES)
    return json.dumps(document)


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes changed, a piece cut out, doubled, or filled with one byte."""
    data = bytearray(content)
    low = rng.randrange(len(data))
    high = min(len(data), low + rng.choice((1, 2, 8, 64, 1000)))
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[low:high]
    elif kind == 2:
        data[low:low] = data[low:high]
    elif kind == 3:
        data[low:high] = bytes([rng.choice((0, 0x7F, 0xFF))]) * (high - low)
    else:
        del data[low:]
    return bytes(data)


def mutate_npz(rng: random.Random, path: Path) -> None:
    """One array of another dtype, rank, size or value, or missing; or the bytes of the file."""
    if rng.randrange(3) == 0:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        return
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(sorted(arrays))
    value = arrays.pop(name)
    changes: list[Callable[[], np.ndarray]] = [
        lambda: value.astype(str), lambda: np.array(1), lambda: value[None], lambda: value.reshape(-1),
        lambda: value[:0] if value.ndim else value, lambda: value[1:] if value.ndim else value,
        lambda: np.full(value.shape, np.nan), lambda: np.full(value.shape, 10**18),
        lambda: np.zeros(value.shape, complex), lambda: np.array(["x" * 99] * 3),
    ]  # fmt: skip
    if kept := rng.randrange(len(changes) + 1):
        arrays[name] = changes[kept - 1]()
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def seal(folder: Path) -> None:
    """Write sizes and checksums anew, in the JSON alone, whatever else stands there."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    for entry in document["files"]:
        file = folder / entry["path"]
        entry |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
    path.write_text(json.dumps(document))


def make_case(sound: Path, folder: Path, seed: int) -> tuple[str, str]:
    """Copy a sound artifact to ``folder`` and change one thing: what it was, and the target that meets it."""
    rng = random.Random(seed)
    shutil.copytree(sound, folder)
    name = rng.choice(("manifest.json", "manifest.json", "model.onnx", "model.xml", "model.bin", "golden.npz"))
    path = folder / name
    if name == "manifest.json":
        path.write_bytes(mutate_json(rng, path.read_text()).encode(errors="surrogateescape"))
        return name, ""
    if name == "golden.npz":
        mutate_npz(rng, path)
    else:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    seal(folder)
    return name, "" if name in ("model.onnx", "golden.npz") else "openvino:fp32:1"


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and last words of a command."""
    words = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(words):
        code = command_line([str(argument) for argument in arguments])
    return code, words.getvalue()[-400:]


def answer(folder: Path, target: str, task: str) -> tuple[int, str, Any]:
    """Exit code, last words and what was written by ``predict``."""
    out = folder.parent / ("out.png" if task == "restore" else "out.json")
    out.unlink(missing_ok=True)
    code, words = run(
        "predict", folder, folder.parent.parent / "a.png", "--out", out, *(("--target", target) if target else ())
    )
    if code != 0:
        return code, words, None
    return code, words, read_image(out) if task == "restore" else json.loads(out.read_text())[0]["path"]


def same(task: str, found: Any, expected: Any) -> bool:
    """Equal to within the limits of float files."""
    if task == "restore":
        return found.shape == expected.shape and int(np.abs(found.astype(int) - expected).max()) <= 1
    return bool(found == expected)


def try_case(sound: Path, expected: Any, folder: Path, seed: int, task: str) -> str:
    """A finding in a line, or nothing."""
    folder.parent.mkdir(exist_ok=True)
    name, target = make_case(sound, folder, seed)
    options = ("--target", target) if target else ()
    code, words = run("verify", folder, *options)
    where = f"seed {seed} {task} {name}"
    if code not in (0, 2, 3, 4) or "Traceback" in words:
        return f"{where}: verify ends with {code}: {words}"
    if code != 0 and "crashed" in words:  # told by the probe, which is what it is there for
        return ""
    verified = code == 0
    code, words, found = answer(folder, target, task)
    if code not in (0, 2, 3, 4) or "Traceback" in words:
        return f"{where}: predict ends with {code}: {words}"
    if verified and code == 0 and not same(task, found, expected):
        return f"{where}: verified, and the answer is another one"
    if seed % 4:  # plots take longer than all the rest
        return ""
    code, words = run("report", folder, "--out", folder.parent / "report.html")
    return "" if code in (0, 2, 3, 4) else f"{where}: report ends with {code}: {words}"


def run_chunk(first: int, count: int) -> None:
    """Try ``count`` cases in this process and print its findings; the last line before a death names the case."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_image(root / "a.png", photo(60, 70))
        tasks = ("restore", "classify")
        sound = {task: make_tiny_artifact(root / task / "sound", task, openvino=True).path for task in tasks}
        expected = {task: answer(sound[task], "", task)[2] for task in tasks}
        for seed in range(first, first + count):
            task = tasks[seed % 2]
            print(f"try {seed}", flush=True)
            if finding := try_case(sound[task], expected[task], root / str(seed) / "artifact", seed, task):
                print(f"finding {' '.join(finding.split())}", flush=True)
            shutil.rmtree(root / str(seed))


def fuzz(count: int, seed: int = 0, tell: Callable[[str], object] = lambda finding: None) -> list[str]:
    """Findings of ``count`` cases, in chunks; each is told when its chunk is done."""
    findings = []
    first, end = seed, seed + count
    while first < end:
        size = min(CHUNK, end - first)
        command = [sys.executable, "-m", "tests.fuzz.artifacts", "--chunk", f"{first},{size}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
        lines = done.stdout.splitlines()
        found = [line.removeprefix("finding ") for line in lines if line.startswith("finding ")]
        tried = [int(line.removeprefix("try ")) for line in lines if line.startswith("try ")]
        if done.returncode != 0:
            where = f"seed {tried[-1] if tried else first}"
            found.append(f"{where}: the process ended with {done.returncode}: {done.stderr[-300:]}")
        for finding in found:
            tell(finding)
        findings += found
        first = (tried[-1] + 1) if done.returncode != 0 and tried else first + size
    return findings


def main() -> int:
    """Print findings; 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk")
    options = parser.parse_args()
    if options.chunk:
        run_chunk(*map(int, options.chunk.split(",")))
        return 0
    found = fuzz(options.count, options.seed, lambda finding: print(finding, flush=True))
    print(f"{len(found)} findings in {options.count} cases from seed {options.seed}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
