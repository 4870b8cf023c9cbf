import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pocketvit
from pocketvit.errors import UsageError
from pocketvit.train.lock import LOCK, locked

from .helpers import classify_recipe, write_classes

HOLD = """
import sys, time, os
from pathlib import Path
from pocketvit.train.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # a loader process outlives its parent for a while
        time.sleep(90)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            again = locked(tmp_path)
            with pytest.raises(UsageError, match=r"in use by process \d+ on .+ since .+ \(.*\)") as caught:
                again.__enter__()
            assert "--name" in caught.value.todo
        assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free_although_its_child_lives(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"process {process.pid} "), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK).exists()
    # Its child closes what it inherited as it begins to run, which on a busy machine may be after the parent's end.
    deadline = time.monotonic() + 60  # it lives for 90 seconds
    while True:
        try:
            with locked(tmp_path):
                break
        except UsageError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    process.stdout.close()


def test_a_second_training_of_one_name_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    recipe = classify_recipe(write_classes(tmp_path / "d", per_class=4), **{"train.epochs": 1})
    (tmp_path / "r").mkdir()
    with locked(tmp_path / "r"):
        for command in (pocketvit.train, pocketvit.fit):
            with pytest.raises(UsageError, match="is in use by process"):
                command(recipe, name="r", runs=str(tmp_path), quiet=True)
        assert [file.name for file in (tmp_path / "r").iterdir()] == [LOCK]
    assert pocketvit.train(recipe, name="r", runs=str(tmp_path), quiet=True).info["epochs"] == 1
