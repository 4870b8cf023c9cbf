"""Python programs in processes that start at once: forks of one process in which all that is slow has been imported.

A test that kills a program at work would else wait, as often as it starts one, for PyTorch and a first export. Nothing
has been trained in the parent and no engine has run, so its forks may do both; on one thread, for a fork has no others.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Program:
    """A program that runs; ``log`` is what it prints."""

    zygote: Zygote
    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Exit code, or minus the signal that ended it; ``None`` while it runs."""
        if self.code is None:
            self.code = self.zygote.ask({"ended": self.pid})
        return self.code

    def kill(self) -> int:
        """End it with SIGKILL; how it ended, which is another way where it was faster."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self, seconds: float = 250) -> int:
        """How it ended."""
        ends = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.01)
        return code


@dataclass
class Zygote:
    """The parent of programs; it starts with the first one."""

    process: Any = field(default=None)

    def start(self, code: str, log: Path, more: Mapping[str, str] | None = None) -> Program:
        """Run Python code with this process's environment, and ``more`` of it."""
        environment = {**os.environ, **(more or {})}
        pid = self.ask({"code": code, "log": str(log), "environment": environment, "folder": os.getcwd()})
        return Program(self, pid, log)

    def ask(self, request: Mapping[str, Any]) -> Any:
        """What the process answers."""
        if self.process is None:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            command = [sys.executable, "-m", "tests.zygote"]
            self.process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(60)
            self.process.stdout.close()


def script(name: str, *arguments: str) -> str:
    """The code that runs a script of the repository, as by its name."""
    path = str(ROOT / "scripts" / name)
    return f"import runpy, sys; sys.argv = {[path, *arguments]!r}; runpy.run_path({path!r}, run_name='__main__')"


def _run(request: Mapping[str, Any]) -> None:
    """In the fork: run the code and end."""
    code = 1
    try:
        file = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, taken in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
            os.dup2(taken, descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        exec(request["code"], {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(ROOT / "scripts"))
    importlib.import_module("faults")
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            found = _ended(request["ended"])
        elif not (found := os.fork()):
            _run(request)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
