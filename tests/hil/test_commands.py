"""Programs of a rig, and sessions that stay loaded there: over a pipe."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UsageError
from agent.processes import lives
from hil import bench
from hil.bench import RunFailedError
from hil.outcome import LinkLostError
from hil.rig import Rig
from hil.session import RigSession
from tests.hil.conftest import Started
from tests.hil.stuck import stuck_file
from tests.hil.variants import tiny_onnx


@pytest.fixture
def rig(started: Started) -> Rig:
    found = started()
    found.lease("me@here a test", lambda _: None, wait_s=20)
    return found


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, os, time, subprocess; {code}", *arguments]


def _gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not lives(pid)


# Programs


def test_a_program_is_run_there_with_its_words_as_they_are(rig: Rig) -> None:
    told: list[str] = []
    words = ["a b", "$HOME", "'; reboot", "ö", ""]
    code = "print(sys.argv[1:]); print(os.getcwd()); sys.exit(7)"
    status = bench.command(rig, _python(code, *words), time_limit_s=20, on_output=told.append)
    first, second = "".join(told).splitlines()
    assert (status, first) == (7, repr(words))
    assert Path(second).parent.name == "runs"


def test_what_is_sent_lies_in_its_folder_and_what_it_writes_spoils_nothing(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("from here")
    code = "print(open('x.txt').read()); open('x.txt', 'w').write('spoilt')"
    for _ in range(2):
        told: list[str] = []
        files = {"x.txt": tmp_path / "x.txt"}
        assert not bench.command(
            rig, _python(code), files=files, time_limit_s=20, on_output=told.append
        )
        assert "".join(told) == "from here\n"


def test_megabytes_of_output_come_whole_and_in_order(rig: Rig) -> None:
    told: list[str] = []
    code = "[print(f'{n:07d}', 'é' * 40) for n in range(100000)]"
    assert not bench.command(rig, _python(code), time_limit_s=60, on_output=told.append)
    lines = "".join(told).splitlines()
    assert [int(line[:7]) for line in lines] == list(range(100000))
    assert {line[8:] for line in lines} == {"é" * 40}


def test_output_comes_while_it_runs(rig: Rig) -> None:
    seen: list[float] = []
    code = "print(1, flush=True); time.sleep(1); print(2)"
    bench.command(
        rig, _python(code), time_limit_s=20, on_output=lambda _: seen.append(time.monotonic())
    )
    assert seen[-1] - seen[0] > 0.8


def test_a_program_that_is_not_there_is_told_with_what_to_do(rig: Rig) -> None:
    with pytest.raises(UsageError, match="no-such-program"):
        bench.command(rig, ["no-such-program"], time_limit_s=20, on_output=lambda _: None)


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    rig: Rig, tmp_path: Path
) -> None:
    # Away from its parent, in a session of its own: a daemon.
    code = (
        "p = subprocess.Popen([sys.executable, '-c', 'import os, time; os.setsid();"
        'pid = os.fork(); pid or open(os.sys.argv[1], "w").write(str(os.getpid()));'
        "pid or time.sleep(60)', sys.argv[1]]); p.wait(); time.sleep(60)"
    )
    noted = tmp_path / "pid"
    with pytest.raises(RunFailedError) as caught:
        bench.command(rig, _python(code, str(noted)), time_limit_s=3, on_output=lambda _: None)
    assert caught.value.outcome == "timeout"
    assert _gone(int(noted.read_text()))


def test_a_client_that_goes_ends_its_program(rig: Rig) -> None:
    told: list[str] = []
    ends: list[BaseException] = []

    def work() -> None:
        try:
            bench.command(
                rig, _python("print(os.getpid(), flush=True); time.sleep(60)"), time_limit_s=60,
                on_output=told.append,
            )  # fmt: skip
        except LinkLostError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not "".join(told).endswith("\n"):
        time.sleep(0.02)
    rig.close()
    thread.join(20)
    assert ends
    assert _gone(int("".join(told)))


def test_what_a_killed_runner_left_running_is_ended_by_the_next_client(
    rig: Rig, started: Started, tmp_path: Path
) -> None:
    noted = tmp_path / "pid"
    inner = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"subprocess.Popen([sys.executable, '-c', {inner!r}, sys.argv[1]]).wait()"

    def run() -> None:
        with pytest.raises(LinkLostError):
            bench.command(rig, _python(code, str(noted)), time_limit_s=60, on_output=lambda _: None)

    work = threading.Thread(target=run)
    work.start()
    while not (noted.exists() and noted.read_text()):
        time.sleep(0.02)
    left = int(noted.read_text())
    os.kill(rig._line._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    work.join(20)
    assert lives(left), "nothing that dies with the runner reaches it"
    told = started().lease("you@here", lambda _: None, wait_s=20)
    assert _gone(left)
    assert told == ["1 processes of runs that were cut off", "1 runs that were cut off"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "told"),
    [("exec cat {}", "No answer"), ("cat {} > /dev/null 2>&1 & sleep 0.5", "It answered")],
    ids=["itself", "what it left behind"],
)
def test_one_that_not_even_the_kernel_can_end_is_a_hang(
    rig: Rig, tmp_path: Path, script: str, told: str
) -> None:
    with stuck_file(tmp_path / "device") as stuck:
        end = rig.run("command", program=["sh", "-c", script.format(stuck)], time_limit_s=2.0)
    assert end["outcome"] == "hang"
    assert told in end["message"]
    assert bench.command(rig, ["true"], time_limit_s=20, on_output=lambda _: None) == 0


# Sessions


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx(tmp_path_factory.mktemp("built"))


def _inputs(seed: int) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).standard_normal((1, 8))
    return {"x": values.astype(np.float32)}


@pytest.mark.toolchain
def test_a_session_answers_as_one_here_and_its_model_is_loaded_once(
    rig: Rig, variant: Path
) -> None:
    from agent.sessions import load

    with RigSession(rig, variant) as there, load(variant) as here:
        assert there.placement() == here.placement()
        for seed in range(3):
            found = there.run(_inputs(seed), reset=seed == 1)
            np.testing.assert_array_equal(found["y"], here.run(_inputs(seed))["y"])
        with pytest.raises(UsageError, match="x"):
            there.run({"x": np.zeros((1, 9), np.float32)})
        assert there.run(_inputs(0))["y"].shape == (1, 8), "it goes on"
    with pytest.raises(UsageError, match="No session is open"):
        there.run(_inputs(0))


@pytest.mark.toolchain
def test_a_session_that_dies_says_how_and_the_rig_goes_on(
    rig: Rig, variant: Path, tmp_path: Path
) -> None:
    from agent.processes import tree

    session = RigSession(rig, variant)
    (job,) = (
        pid
        for pid in tree(rig._line._process.pid)  # type: ignore[attr-defined]
        if b"agent.rig.job" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(job, signal.SIGSTOP)
    with pytest.raises(RunFailedError) as caught:
        session.run(_inputs(0), limit_s=1)
    assert caught.value.outcome == "timeout"
    assert _gone(job)
    with RigSession(rig, variant) as again:
        assert again.run(_inputs(0))["y"].shape == (1, 8)


@pytest.mark.toolchain
def test_a_session_has_a_memory_limit(rig: Rig, variant: Path) -> None:
    with pytest.raises(RunFailedError) as caught:
        RigSession(rig, variant, memory_limit_mib=8)
    assert caught.value.outcome == "out_of_memory"
