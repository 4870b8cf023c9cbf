"""What the app keeps running when an update, the store or the server fails, in Node.js with stand-ins for all three."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import DIST, UNITS, need


def told(*stories: dict[str, Any]) -> list[Any]:
    """What each story saw; one process runs them all."""
    need(("web/build/units.mjs", UNITS.is_file()), ("node", shutil.which("node") is not None))
    command = ["node", str(Path(__file__).with_name("keeping.mjs")), str(UNITS)]
    done = subprocess.run(command, input=json.dumps(stories), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("contents", "full", "reason"),
    [(["memory"], False, "memory"), (["lacks"], False, "engine"), (["good"], True, "engine")],
)
def test_an_update_that_does_not_open_leaves_what_runs_and_is_fetched_once(
    contents: list[str], full: bool, reason: str
) -> None:
    [(first, second, retry)] = told({"story": "update", "contents": contents, "full": full})
    for look in (first, second, retry):
        assert (look["runs"], look["alive"]) == ("1.0.0 onnxruntime:int8", 1)
    assert (first["seen"], first["fetched"]) == ([f"refused {reason}"], ["int8.onnx"])
    assert (second["seen"], second["fetched"]) == (["refused failed"], [])
    assert (retry["seen"], retry["fetched"]) == (["running", f"refused {reason}"], ["int8.onnx"])


@pytest.mark.parametrize("fault", ["lacks", "memory", "wrong"])
def test_the_next_variant_runs_where_the_chosen_one_does_not(fault: str) -> None:
    [(first, second)] = told({"story": "first", "contents": [fault, "good"]})
    assert (first["runs"], first["alive"], first["refused"]) == ("1.0.0 onnxruntime:fp32", 1, 0)
    assert first["fetched"] == ["int8.onnx", "fp32.onnx"]
    assert (second["fetched"], second["refused"]) == ([], 0)


def test_a_first_model_none_of_whose_variants_runs_is_fetched_once() -> None:
    mixed, wrong = told(
        {"story": "first", "contents": ["lacks", "wrong"]}, {"story": "first", "contents": ["wrong", "wrong"]}
    )
    assert [(look["fetched"], look["runs"], look["alive"], look["refused"]) for look in mixed] == [
        (["int8.onnx", "fp32.onnx"], None, 0, 0),
        ([], None, 0, 0),
    ]
    assert [look["seen"] for look in mixed] == [["failed ERROR_CODE: 9"], []]
    assert [look["seen"] for look in wrong] == [["refused golden first"], ["refused failed first"]]
    assert [look["refused"] for look in wrong] == [1, 1]  # wrong answers are remembered for good


def test_a_lost_connection_is_no_failed_variant() -> None:
    [(gone, back)] = told({"story": "lost"})
    assert (gone["seen"], gone["runs"]) == (["offline"], None)
    assert back["runs"] == "1.0.0 onnxruntime:fp32"


@pytest.mark.parametrize("kind", ["open", "prove"])
def test_a_worker_that_hangs_while_it_loads_is_started_again(kind: str) -> None:
    once, always, other = told(
        {"story": "muteLoading", "kind": kind, "times": 1, "contents": ["good"]},
        {"story": "muteLoading", "kind": kind, "times": 99, "contents": ["good"]},
        {"story": "muteLoading", "kind": kind, "times": 99, "contents": ["bad", "good"]},
    )
    assert once["seen"] == [f"silent during {kind}", "running"]
    assert (once["runs"], once["alive"], once["fetched"]) == ("1.0.0 onnxruntime:int8", 1, ["int8.onnx"])
    silent, failed = always["seen"]
    assert silent == f"silent during {kind}"
    assert failed.startswith("failed the worker did not answer for ")
    assert (always["runs"], always["alive"]) == (None, 0)
    assert (other["runs"], other["alive"]) == ("1.0.0 onnxruntime:fp32", 1)  # another file may do


def test_a_worker_that_does_not_answer_a_frame_is_started_again_but_not_for_ever() -> None:
    once, always, fresh = told(
        {"story": "muteRunning", "times": 1},
        {"story": "muteRunning", "times": 9},
        {"story": "muteRunning", "times": 1, "fresh": True},
    )
    assert once["found"] == [["silent", "answer"], None]
    assert once["seen"] == ["silent during answer", "running", "running"]  # opened, and found to be the newest
    assert (once["runs"], once["alive"]) == ("1.0.0 onnxruntime:int8", 1)
    assert always["found"] == [["silent", "answer"]] * 4
    assert always["seen"][-1].startswith("failed the worker did not answer for ")
    assert (always["runs"], always["alive"]) == (None, 0)
    assert fresh["found"] == [["silent", "answer"], None]
    assert fresh["seen"] == ["silent during answer", "running", "rolledBack"]
    assert (fresh["runs"], fresh["alive"]) == ("1.0.0 onnxruntime:int8", 1)


def test_signs_of_life_keep_a_worker_that_has_much_to_do() -> None:
    assert told({"story": "slow", "alive": True}, {"story": "slow", "alive": False}) == [
        ["answered", "asked"],
        ["silent", "the worker was ended"],
    ]


def test_nothing_unsigned_is_taken_once_something_signed_was_seen() -> None:
    """Also where what was signed was damaged, or went back to something unsigned."""
    cases = [(0, None, "new"), (7, None, "evil"), (7, "good", "evil"), (7, "good", "good")]
    stories = [{"story": "unsigned", "counter": n, "runs": runs, "offered": offered} for n, runs, offered in cases]
    assert told(*stories) == ["new", "refused unsigned", "refused unsigned", "good"]


def test_a_version_that_is_taken_back_while_an_update_comes_stays_back() -> None:
    bad, good = told({"story": "rollBack", "next": ["wrong"]}, {"story": "rollBack", "next": ["good"]})
    assert (bad["runs"], bad["current"], bad["alive"]) == ("1.0.0 onnxruntime:int8", "1.0.0", 1)
    assert bad["refused"] == 2  # what was taken back, and what came meanwhile
    assert bad["seen"] == ["refused golden", "running", "rolledBack"]
    assert (good["runs"], good["current"], good["alive"]) == ("3.0.0 onnxruntime:int8", "3.0.0", 1)
    assert good["seen"] == ["running"]


@pytest.mark.parametrize(
    ("acts", "answers", "started", "before"),
    [
        (["start"], [0], [True], [True]),
        (["start", "start"], [0, 1], [False, True], [False, True]),
        (["start", "turn", "start"], [1, 0], [False, True], [False, True]),
        (["start", "stop"], [0], [False], [False]),  # as where a photo is chosen
    ],
)
def test_no_camera_stays_on_that_nobody_can_stop(
    acts: list[str], answers: list[int], started: list[bool], before: list[bool]
) -> None:
    [seen] = told({"story": "camera", "acts": acts, "answers": answers})
    assert (seen["started"], seen["before"]) == (started, before)
    assert (seen["on"], seen["after"]) == (before[-1], False)


def test_a_server_that_goes_silent_is_out_of_reach_after_half_a_minute() -> None:
    for amid in (False, True):
        [seen] = told({"story": "silent", "amid": amid})
        assert seen == {"answers": ["waits", "unreachable"], "came": [3] if amid else []}


def test_the_kept_page_opens_where_the_server_answers_with_an_error() -> None:
    need(("web/dist/sw.js", (DIST / "sw.js").is_file()))
    worker = (DIST / "sw.js").as_uri()
    statuses = (502, 503, 404, 0, 200)
    seen = told(*({"story": "shell", "worker": worker, "status": status, "kept": True} for status in statuses))
    assert seen == [["kept", "kept"]] * 4 + [["new", "new"]]
