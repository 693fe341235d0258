"""A step in a subprocess: its result, its typed failures, and that nothing survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.memory_group import memory_group
from sdk.workers import Limits, StepBugError, StepFailure, Workers

LAUNCHER = """\
#!{python}
# Stands in for an interpreter whose vendor misbehaves: it is started as the step would be.
import os, sys, time, ctypes
{body}
"""


def interpreter(folder: Path, body: str) -> str:
    path = folder / "python"
    path.write_text(LAUNCHER.format(python=sys.executable, body=textwrap.dedent(body)))
    path.chmod(0o755)
    return str(path)


def run(tmp_path: Path, body: str, **limits: object) -> object:
    folder = tmp_path / "step"
    folder.mkdir()
    python = interpreter(tmp_path, body)
    return Workers(tmp_path).run("lower", {}, folder, Limits(python=python, **limits))  # type: ignore[arg-type]


def test_a_segfault_is_a_typed_failure_with_a_log(tmp_path: Path) -> None:
    found = run(tmp_path, "print('before the end', flush=True); ctypes.string_at(0)")
    assert isinstance(found, StepFailure)
    assert found.kind == "crashed"
    assert "SIGSEGV" in found.message
    assert "before the end" in found.log.read_text()


def test_a_hang_is_killed_at_the_time_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    found = run(tmp_path, "time.sleep(60)", time_limit_s=0.5)
    assert isinstance(found, StepFailure)
    assert found.kind == "hung"
    assert time.monotonic() - started < 10


def test_a_hunger_for_memory_is_killed_at_the_limit(tmp_path: Path) -> None:
    found = run(tmp_path, "held = b'x' * (300 << 20); time.sleep(60)", memory_limit_mib=150)
    assert isinstance(found, StepFailure)
    assert found.kind == "out_of_memory"


def test_the_memory_of_grandchildren_counts(tmp_path: Path) -> None:
    body = """
        if os.fork() == 0:
            held = b'x' * (300 << 20)
        time.sleep(60)
    """
    began = time.monotonic()
    found = run(tmp_path, body, memory_limit_mib=150)
    assert isinstance(found, StepFailure)
    assert found.kind == "out_of_memory"
    assert time.monotonic() - began < 30  # it is ended with them, and not awaited


def test_the_kernel_holds_the_limit_where_a_control_group_may_be_made(tmp_path: Path) -> None:
    with memory_group(150 << 20) as group:
        if not group.enforced:
            pytest.skip("no memory control group may be made here")
        hunger = [sys.executable, "-c", "input(); held = b'x' * (300 << 20)"]
        with subprocess.Popen(hunger, stdin=subprocess.PIPE) as process:
            group.add(process.pid)
            process.communicate(b"\n", timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert group.has_killed()
        folder = group.folder
    assert folder is not None
    assert not folder.exists()


def test_without_a_limit_there_is_no_control_group() -> None:
    with memory_group(None) as group:
        assert not group.enforced
        assert not group.has_killed()


def test_an_exit_code_is_told_with_the_last_line(tmp_path: Path) -> None:
    found = run(tmp_path, "print('vendor: no licence'); sys.exit(3)")
    assert isinstance(found, StepFailure)
    assert found.message == "ended with code 3: vendor: no licence"


def test_a_missing_interpreter_is_the_users_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    with pytest.raises(UsageError, match="cannot be started"):
        Workers(tmp_path).run("lower", {}, folder, Limits(python=str(tmp_path / "nowhere")))


def test_an_error_of_the_step_comes_back_typed(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    found = Workers(tmp_path).run("capture", {"project": str(tmp_path)}, folder, Limits())
    assert isinstance(found, StepFailure)
    assert isinstance(found.error, UsageError)
    assert "no project file" in found.message


def test_a_bug_in_a_step_is_a_crash_of_the_build(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    with pytest.raises(StepBugError, match="KeyError"):
        Workers(tmp_path).run("capture", {}, folder, Limits())


def test_stopping_kills_what_runs(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    workers = Workers(tmp_path)
    python = interpreter(tmp_path, "open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    ended: list[BaseException] = []

    def work() -> None:
        try:
            workers.run("lower", {}, folder, Limits(python=python))
        except KeyboardInterrupt as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    pid_file = folder / "pid"
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.01)
    workers.stop()
    thread.join(10)
    assert ended
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
    with pytest.raises(KeyboardInterrupt):
        workers.run("lower", {}, folder, Limits())


@pytest.mark.slow
def test_a_step_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The parent gets SIGKILL, which it cannot pass on."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "model.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    (project / "sdk.toml").write_text(
        '[model]\nname = "m"\nsource = "model.py:make"\n'
        '[[inputs]]\nname = "x"\ndtype = "float32"\nshape = [1]\n'
    )
    folder = tmp_path / "step"
    folder.mkdir()
    code = (
        "from pathlib import Path; from sdk.workers import Workers, Limits; import sys;"
        "Workers(Path(sys.argv[1])).run('capture', {'project': sys.argv[2]},"
        " Path(sys.argv[3]), Limits())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path, project, folder])
    pid_file = folder / "pid"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    child = Path(f"/proc/{pid_file.read_text()}")
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nobody_measures_while_somebody_lowers(tmp_path: Path) -> None:
    order: list[str] = []

    def lower() -> None:
        with Workers(tmp_path).busy():
            order.append("lowering")
            time.sleep(0.3)
            order.append("lowered")

    thread = threading.Thread(target=lower)
    thread.start()
    while not order:
        time.sleep(0.01)
    with Workers(tmp_path).quiet():
        order.append("measuring")
    thread.join()
    assert order == ["lowering", "lowered", "measuring"]
