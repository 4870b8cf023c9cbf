"""What was stored is there after a kill; files of others are left alone; the file does not grow without end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketvit.errors import DataError
from pocketvit.serve.drift import store
from pocketvit.serve.drift.monitor import Change
from pocketvit.serve.drift.statistics import Cloud
from pocketvit.serve.drift.store import Reader, Reference, Store, place

WRITER = """
import sys, time
from pathlib import Path
from pocketvit.serve.drift.monitor import Change
from pocketvit.serve.drift.store import Store
store = Store(Path(sys.argv[1]))
for number in range(10 ** 9):
    store.add("m", float(number), {"noise": number}, [Change("noise", 0.0, number, "adwin")])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_after_a_kill_each_finished_request_is_there_with_its_changes(tmp_path: Path) -> None:
    for turn in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "d.db")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for _ in range(50 + 37 * turn):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = int(([*process.stdout] or [str(last)])[-1])
        process.wait(30)
        process.stdout.close()
        with Reader(tmp_path / "d.db") as reader:
            times = [at for at, values in reader.requests("m", 10**6) if at == values["noise"]]
            told = [row["time"] for row in reader.changes("m", 10**6)][::-1]
        assert times == told
        assert times[-1] in (last, last + 1)  # one more may have been stored and not printed any more
        check = sqlite3.connect(tmp_path / "d.db")
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        check.close()


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cloud = Cloud.of(rng.normal(size=(40, 3)))
    reference = Reference("", {}, {}).joined("photos", {"noise": rng.normal(size=40)}, cloud)
    kept = Store(tmp_path / "d.db")
    kept.keep_reference("m", reference)
    for number in range(5):
        kept.add("m", number, {"noise": number, "contrast": 0.123456789})
    kept.add("other", 9, {"noise": 9}, [Change("noise", 1, 2, "adwin"), Change("contrast", 3, 4, "page_hinkley")])
    kept.add("other", 10, {"noise": 9}, [Change("noise", 1, 1, "recovered")])
    kept.close()
    with Reader(tmp_path / "d.db") as reader:
        assert [at for at, _ in reader.requests("m", 3)] == [2, 3, 4]
        assert reader.requests("m", 1)[0][1] == {"noise": 4, "contrast": 0.123457}
        assert (reader.count("m"), reader.count("other")) == (5, 2)
        assert reader.drifting("other") == {"contrast"}
        assert [row["detector"] for row in reader.changes("other", 2)] == ["recovered", "page_hinkley"]
        found = reader.reference("m")
        assert reader.reference("other") is None
    assert found is not None
    assert found.cloud is not None
    assert found.sources == {"noise": "photos"}
    np.testing.assert_array_equal(found.values["noise"], reference.values["noise"])
    np.testing.assert_array_equal(found.cloud.inverse, cloud.inverse)


def test_old_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_REQUESTS", 20)
    monkeypatch.setattr(store, "_SWEEP_EVERY", 10)
    kept = Store(tmp_path / "d.db")
    for number in range(100):
        kept.add("m", number, {"noise": number})
    kept.close()
    with Reader(tmp_path / "d.db") as reader:
        assert 20 <= reader.count("m") <= 30
        assert reader.requests("m", 1)[0][0] == 99


def test_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    (tmp_path / "text.db").write_text(json.dumps(list(range(2000))))
    for name in ("other.db", "text.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DataError, match="cannot be used to watch"):
            Store(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(DataError):
        Store(tmp_path / "text.db" / "below.db")


def test_a_folder_or_a_file_may_be_named(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path / "drift.db"
    assert place(tmp_path / "new") == tmp_path / "new" / "drift.db"
    assert place(tmp_path / "x.sqlite") == tmp_path / "x.sqlite"
