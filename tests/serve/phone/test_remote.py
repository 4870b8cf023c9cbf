"""A phone as a device that is not of this machine, with one that is faked: bench from end to end, and what fails."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from rich.console import Console

import pocketvit
from pocketvit.arguments import Arguments
from pocketvit.bench.remote import Rounds, Times, prove, sustained_of
from pocketvit.bench.timing import Timing
from pocketvit.cli import main
from pocketvit.commands import COMMANDS
from pocketvit.errors import MissingDependencyError, PocketvitError, UsageError, VerificationError
from pocketvit.runtimes.model import load
from pocketvit.serve.http.server import listen
from pocketvit.serve.phone import jobs as desk_jobs
from pocketvit.serve.phone import remote
from pocketvit.serve.phone.desk import invite
from pocketvit.serve.phone.remote import connect, content_of
from pocketvit.spec.artifact import Artifact, read_artifact
from pocketvit.spec.recipe import load_recipe
from pocketvit.spec.target import Target
from tests.tiny import make_tiny_artifact, photo

from .fake import FakePhone, Invited, address_in

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "phone-bench.md"
Bend = Callable[[str, Any], Any]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("phone") / "a", "restore")


@pytest.fixture
def invited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Invited]:
    return lambda bend=lambda what, content: content: Invited(monkeypatch, tmp_path, bend)


def run_bench(artifact: Artifact, invited: Invited, **options: Any) -> Any:
    waits = {key: options.pop(key) for key in ("wait_seconds", "tls", "app") if key in options}
    fixed = {"target": "phone", "contact": replace(invited.contact, **waits)}
    fixed |= {"sustained_seconds": 0.0, "size": "48x64", "seconds": 0.1}
    return pocketvit.bench(str(artifact.path), **fixed | options)


def test_bench_proves_times_and_stores(artifact: Artifact, invited: Callable[..., Invited]) -> None:
    there = invited()
    report = run_bench(artifact, there, sustained_seconds=1.0)
    kinds = [job["kind"] for job in there.phone.jobs]
    assert kinds == ["run"] * 3 + ["time"] * 2, "each golden input is answered before anything is timed"
    (result,) = report.results
    assert result.variant == "onnxruntime:fp32@phone"
    assert (result.engine, result.threads, result.device) == ("onnxruntime-web 1.30.0", 1, "PHONE")
    assert result.total.p50 == pytest.approx(0.011)
    assert (result.pre.p50, result.infer.p50, result.post.p50) == pytest.approx((0.001, 0.010, 0.0))
    assert report.environment["user_agent"] == "FakePhone/1.0 (test)"
    assert "cpu" not in report.environment
    rows = read_artifact(artifact.path).manifest.benchmarks
    assert [row.variant for row in rows] == ["onnxruntime:fp32@phone"] * 2
    assert [row.input_shape for row in rows] == [[48, 64, 3]] * 2
    assert rows[0].environment["cores"] == 8
    assert "without a pause" in rows[1].includes
    assert rows[1].environment["sustained"]["slowdown"] == pytest.approx(1.0)
    assert load(str(artifact.path)).target == Target(), "a phone's row chooses nothing on this machine"
    console = Console(width=160)
    with console.capture() as shown:
        console.print(report.render())
    assert "FakePhone/1.0" in shown.get()
    assert json.loads(json.dumps(report.to_dict()))["stored"] == [str(artifact.path)]
    run_bench(artifact, invited())
    again = read_artifact(artifact.path).manifest.benchmarks
    assert len(again) == 2, "a later row of the same phone takes the place of the earlier"


def test_two_files_in_turns(artifact: Artifact, invited: Callable[..., Invited]) -> None:
    there = invited()
    both = {"target": "onnxruntime:fp32:1@phone", "other_target": "onnxruntime:fp32:1@phone", "store": False}
    report = run_bench(artifact, there, **both)
    (timed,) = (job for job in there.phone.jobs if job["kind"] == "time")
    assert [file["name"] for file in timed["files"]] == ["onnxruntime:fp32@phone"] * 2
    assert report.ratio is not None
    assert report.ratio.p50 == pytest.approx(0.011 / 0.021)
    assert report.stored == ()


def test_wrong_answers_are_refused_by_name(artifact: Artifact, invited: Callable[..., Invited]) -> None:
    there = invited(lambda what, content: content[:-4] + np.float32(900).tobytes() if what == "outputs" else content)
    with pytest.raises(VerificationError, match=r"onnxruntime:fp32@phone: its answers to the golden inputs are wrong"):
        run_bench(artifact, there)
    assert [job["kind"] for job in there.phone.jobs if job["kind"] == "time"] == []


def test_a_file_against_itself_here(artifact: Artifact, invited: Callable[..., Invited]) -> None:
    there, told = invited(), list[str]()
    local = load(str(artifact.path))
    inputs = np.stack([photo(32, 32, seed) for seed in (1, 2)])
    inputs = np.repeat(np.repeat(inputs, 2, 1), 2, 2)[:, :48]
    reference = {"restored": np.concatenate([local.session.run({"pixels": x[None]})["restored"] for x in inputs])}
    with connect(there.contact, told.append) as phone:
        session = phone.open(local.file, Target(device="phone"), local.manifest)
        remote_model = replace(local, session=session, target=Target(device="phone"))
        prove(remote_model, inputs, reference)
        assert session.info.version == "1.30.0"
        (times,) = phone.time([(remote_model, [inputs[0], inputs[1]])], Rounds(0.1, 5))
        with pytest.raises(VerificationError, match="are not those of this machine"):
            prove(remote_model, inputs, {"restored": reference["restored"] + 3})
    assert len(times.total.times_ms) == 6
    assert len(there.phone.jobs[-3]["files"][0]["images"]) == 2
    assert told == ["the phone is here: FakePhone/1.0 (test); 8 cores, threads"]


@pytest.mark.parametrize(
    ("kind", "words"), [("memory", "too little memory"), ("open", "cannot open it"), ("run", "fails on it")]
)
def test_what_the_phone_cannot_do(artifact: Artifact, invited: Callable[..., Invited], kind: str, words: str) -> None:
    there = invited()

    def fail(job: dict[str, Any]) -> None:
        FakePhone.post(there.phone, job, "error", {"kind": kind, "text": "std::bad_alloc \n at wasm"})

    there.work = fail
    with pytest.raises(VerificationError, match=words):
        run_bench(artifact, there)


def test_garbage_is_refused_and_what_is_right_is_still_taken(
    artifact: Artifact, invited: Callable[..., Invited]
) -> None:
    there = invited()
    refused: list[int] = []

    def garbage_first(job: dict[str, Any]) -> None:
        base = f"jobs/{job['id']}"
        bodies = [
            b"",
            b"{",
            b'{"engine": 1}',
            b"\xff" * 40,
            b'{"files":[{"pre":[NaN],"infer":[1],"post":[1],"at":[1]}]}',
        ]
        for what in ("rows", "outputs", "progress", "error"):
            refused.extend(there.phone.http.post(f"{base}/{what}", content=body).status_code for body in bodies)
        FakePhone.work(there.phone, job)

    there.work = garbage_first
    assert run_bench(artifact, there, store=False).results[0].total.p50 == pytest.approx(0.011)
    assert set(refused) == {400, 409}


def test_nobody_comes_and_somebody_goes(
    artifact: Artifact,
    invited: Callable[..., Invited],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = invited()
    there.comes = False
    with pytest.raises(PocketvitError, match=r"no phone has come within 0\.3 s"):
        run_bench(artifact, there, wait_seconds=0.3)
    monkeypatch.setattr(desk_jobs.Jobs.__init__, "__kwdefaults__", {"lease_s": 0.3, "clock": time.monotonic})
    gone = invited()
    gone.work = lambda job: gone.phone.stop.set()
    with pytest.raises(PocketvitError, match="the phone went away and has not come back within 1 s"):
        run_bench(artifact, gone, wait_seconds=1.0)
    assert "has gone silent during answer of onnxruntime:fp32@phone" in capsys.readouterr().err


def test_a_phone_that_comes_back_gets_its_job_again(artifact: Artifact, invited: Callable[..., Invited]) -> None:
    there, seen = invited(), list[str]()

    def reload_once(job: dict[str, Any]) -> None:
        seen.append(job["id"])
        if len(seen) == 2:  # as a page that is loaded again
            there.phone.greet()
            return
        FakePhone.work(there.phone, job)

    there.work = reload_once
    run_bench(artifact, there, store=False)
    assert seen[1] == seen[2]


def test_the_page_has_what_threads_need_and_hears_the_end(invited: Callable[..., Invited]) -> None:
    there = invited()
    with connect(there.contact, lambda line: None):
        base, _ = address_in(there.url)
        page = httpx.get(base)
        assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert httpx.get(f"{base}../etc/passwd").status_code == 404
        assert httpx.get(f"{base}none.js").status_code == 404
        while not there.phone.http.headers.get("X-Phone-Session"):
            time.sleep(0.01)
    end = time.monotonic() + 60
    while not there.phone.ended and time.monotonic() < end:
        time.sleep(0.01)
    assert there.phone.ended.startswith("410 all is done")


def test_without_the_extra_it_is_named(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pocketvit.serve.phone.remote", raising=False)
    monkeypatch.delitem(sys.modules, "pocketvit.serve.phone.desk", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match="uvicorn is not installed") as missing:
        pocketvit.bench(str(artifact.path), target="phone")
    assert 'pip install "pocketvit[serve]"' in missing.value.todo


def test_with_a_certificate_of_our_own(invited: Callable[..., Invited], tmp_path: Path) -> None:
    there = invited()
    there.comes = False
    with connect(replace(there.contact, tls="auto", tls_folder=str(tmp_path / "tls")), lambda line: None):
        port = httpx.URL(address_in(there.url)[0]).port
        assert httpx.get(f"https://127.0.0.1:{port}/phone/", verify=False).status_code == 200
    assert (tmp_path / "tls" / "key.pem").is_file()


def test_the_address_is_printed_with_its_token_behind_the_hash(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as listener:
        invite(listener, "127.0.0.1", "token-of-a-test", secure=True)
        port = listener.getsockname()[1]
    said = capsys.readouterr().err
    assert f"https://127.0.0.1:{port}/phone/#pair=token-of-a-test" in said
    assert "█" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "openvino:fp32@phone"}, "phone runs no files of openvino"),
        ({"target": "onnxruntime:int8@phone"}, "holds no variant onnxruntime:int8"),
        ({"other_target": "onnxruntime:fp32"}, "are not on one device"),
        ({"other_target": "onnxruntime:fp32:1@phone"}, "differ in threads"),
        ({"sustained_seconds": -1.0}, "sustained_seconds must lie between"),
        ({"target": None}, "is about a device that is not of this machine"),
        ({"wait_seconds": 0.0}, "contact.wait_seconds"),
        ({"tls": "cert.pem"}, "tls must be auto"),
        ({"app": "/nowhere"}, r"/nowhere: holds no built phone app[\s\S]*--contact\.app"),
    ],
)
def test_wrong_options(
    artifact: Artifact, invited: Callable[..., Invited], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run_bench(artifact, invited(), **options)


def test_files_that_read_others_do_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    monkeypatch.setattr(remote, "external_files", lambda path: ("weights.bin",))
    with pytest.raises(UsageError, match=r"reads 'weights.bin', and a phone gets one file"):
        content_of(tmp_path / "m.onnx")


def test_sustained_runs_compare_the_first_minute_with_the_last() -> None:
    at = [1000.0 * (i + 1) for i in range(300)]
    times = Timing(tuple(10.0 if t <= 150_000 else 14.0 for t in at))
    found = sustained_of("onnxruntime:fp32@phone", Times(times, times, times, times, tuple(at)))
    assert (found.first.p50, found.last.p50, len(found.first.times_ms)) == (10.0, 14.0, 60)
    assert found.slowdown == pytest.approx(1.4)
    assert found.throttles
    assert "p50 10.00 ms in the first 60 s and 14.00 ms in the last (+40 %)" in found.text()
    short = sustained_of("x", Times(*(Timing((5.0, 5.0, 5.0)),) * 4, (100.0, 200.0, 300.0)))
    assert (short.slowdown, short.throttles) == (1.0, False)


def documented() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("pocketvit ")]


@pytest.mark.parametrize("line", documented())
def test_the_page_shows_what_there_is(
    line: str,
    artifact: Artifact,
    invited: Callable[..., Invited],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each line goes through the real parser; what is benched is run with a small artifact, where it holds the file."""
    name, *words = shlex.split(line)[1:]
    given = Arguments(name, COMMANDS[name].resolve(), COMMANDS[name].sections).parse(words)
    if name == "fit":
        recipe = load_recipe(ROOT / given.pop("recipe"), given)
        assert recipe.target.device == "phone"
        return
    there = invited()
    contact = [f"--contact.{key}={value}" for key, value in vars(there.contact).items() if value is not None]
    words = [str(artifact.path), *(word.replace("int8", "fp32") for word in words[1:]), *contact]
    assert main([name, *words, "--size", "48x64", "--sustained_seconds", "0", "--seconds", "0.1", "--no_store"]) == 0
    assert "onnxruntime:fp32@phone" in capsys.readouterr().out
