"""The rig's half, over a pipe: leases, files, runs, and everything that can end them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NetworkError, SlipwayError, StorageError, UsageError, VerificationError
from agent.processes import lives, tree
from agent.rig import lease, serve
from agent.rig.store import Store
from hil.bench import look, push_files
from hil.bundle import bundle, modules
from hil.link import READ
from hil.outcome import LinkLostError
from hil.recovery import examine
from hil.rig import Rig
from tests.hil.conftest import Started, file_of


def _leased(rig: Rig, who: str = "me@here a test") -> Rig:
    rig.lease(who, lambda _: None, wait_s=20)
    return rig


def _pid(rig: Rig) -> int:
    return int(rig._line._process.pid)  # type: ignore[attr-defined]


# Who has it


def test_one_at_a_time_and_in_the_order_in_which_they_came(started: Started) -> None:
    first = _leased(started())
    order: list[int] = []
    waiting = []
    for number in range(3):
        rig = started()
        work = threading.Thread(
            target=lambda rig=rig, number=number: (  # type: ignore[misc]
                rig.lease(f"c{number}@here", lambda _: None, wait_s=30),
                order.append(number),
                rig.close(),
            )
        )
        work.start()
        waiting.append(work)
        time.sleep(0.4)  # so that they come in this order
    assert not order
    first.close()
    for work in waiting:
        work.join(30)
    assert order == [0, 1, 2]


def test_who_waits_is_told_whom_it_waits_for_and_may_give_up(started: Started) -> None:
    _leased(started(), "eve@lab sdk build")
    told: list[str] = []
    with pytest.raises(StorageError, match="eve@lab sdk build has the rig"):
        started().lease("me@here", told.append, wait_s=0.5)
    assert "eve@lab" in told[0]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_that_is_killed_leaves_nothing_locked(started: Started, how: int) -> None:
    one = _leased(started())
    os.kill(_pid(one), how)
    began = time.monotonic()
    other = _leased(started())
    assert time.monotonic() - began < 5
    assert other._token == one._token + 1


def test_one_that_waits_and_is_killed_holds_nobody_up(started: Started) -> None:
    one = _leased(started())
    dead = started()
    assert dead._asked("lease", name="dead@here")["token"] is None
    last = started()
    assert last._asked("lease", name="last@here")["before"] == 2
    os.kill(_pid(dead), signal.SIGKILL)
    one.close()
    _leased(last)


def test_a_holder_that_is_stopped_is_ended_by_the_next_and_writes_nothing_after(
    started: Started, tmp_path: Path
) -> None:
    one = _leased(started())
    os.kill(_pid(one), signal.SIGSTOP)
    path = tmp_path / "rig" / "lease" / "holder.json"
    holder = json.loads(path.read_text())
    path.write_text(json.dumps({**holder, "beat_s": holder["beat_s"] - lease.SILENT_S - 1}))
    other = _leased(started())
    assert other._token == one._token + 1
    late = dict([file_of(tmp_path, b"late")])
    with pytest.raises(LinkLostError):
        one.push(late)


def test_a_runner_that_lost_its_lease_refuses_to_write(started: Started, tmp_path: Path) -> None:
    one = _leased(started())
    path = tmp_path / "rig" / "lease" / "holder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "token": 99}))
    name, file = file_of(tmp_path, b"late")
    with pytest.raises(NetworkError, match="is over"):
        one.push({name: file})
    with pytest.raises(NetworkError, match="is over"):
        one.run("look", time_limit_s=10)
    assert not (tmp_path / "rig" / "blobs" / name).exists()


def test_without_a_lease_nothing_is_written_or_run(started: Started, tmp_path: Path) -> None:
    rig = started()
    for act in (
        lambda: rig.push(dict([file_of(tmp_path, b"x")])),
        lambda: rig.stage("ab" * 16, {}),
        lambda: rig.run("look", time_limit_s=10),
        rig.clean,
    ):
        with pytest.raises(UsageError, match="not this client's"):
            act()


def test_a_rig_that_is_set_aside_is_its_owners(started: Started) -> None:
    started().set_aside("eve@lab", "a new heat sink")
    with pytest.raises(UsageError, match=r"eve@lab .* a new heat sink"):
        _leased(started(), "me@here a build")
    _leased(started(), "eve@lab a build").close()
    with pytest.raises(UsageError, match="eve@lab"):
        started().set_aside("me@here", "")
    assert started().give_back()
    assert not started().give_back()
    _leased(started())


def test_a_rig_that_failed_a_check_is_let_in_to_by_who_looks_and_back_once_it_passes(
    started: Started,
) -> None:
    started().set_aside("me@here sdk hil doctor", "look: nothing runs", failed=True)
    for name in ("me@here a build", "eve@lab a build"):  # nobody's own: not even who found it
        with pytest.raises(StorageError, match="off since it failed a check: look: nothing runs"):
            started().lease(name, lambda _: None, wait_s=5)
    one = started()
    one.lease("eve@lab sdk hil doctor", lambda _: None, wait_s=5, inspects=True)
    assert one.give_back(passed=True)
    one.close()
    _leased(started()).close()


def test_a_check_changes_nothing_of_what_a_person_wants(started: Started) -> None:
    rig = started()
    rig.set_aside("eve@lab", "a new heat sink")
    with pytest.raises(UsageError, match="heat sink"):
        rig.set_aside("me@here sdk hil doctor", "look: nothing runs", failed=True)
    assert not rig.give_back(passed=True)
    assert rig.look_again()["aside"]["reason"] == "a new heat sink"


def test_a_rig_on_which_nothing_runs_any_more_puts_itself_aside_and_comes_back(
    started: Started, tmp_path: Path
) -> None:
    own = tmp_path / "rig" / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\nexit 7\n")  # the environment that was installed there is broken
    own.chmod(0o755)
    one = _leased(started())
    (look_,) = examine(one, "me@here sdk hil doctor", lambda _: None)
    assert look_.is_grave
    one.close()
    with pytest.raises(StorageError, match="exit status 7"):
        _leased(started())
    own.unlink()
    two = started()
    two.lease("me@here sdk hil doctor", lambda _: None, wait_s=5, inspects=True)
    assert "look" not in {one.what for one in examine(two, "me@here", lambda _: None)}
    two.close()
    _leased(started())


# What is pushed


def test_a_file_is_sent_once_and_goes_on_where_it_was_cut(started: Started, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    name, path = file_of(tmp_path, content)
    part = tmp_path / "rig" / "parts" / name
    part.parent.mkdir(parents=True)
    part.write_bytes(content[: 1 << 20])
    rig = _leased(started())
    assert rig.push({name: path}) == 2 << 20
    assert rig.push({name: path}) == 0
    assert (tmp_path / "rig" / "blobs" / name).read_bytes() == content


def test_a_part_that_was_spoilt_is_sent_anew(started: Started, tmp_path: Path) -> None:
    name, path = file_of(tmp_path, b"abcdef")
    part = tmp_path / "rig" / "parts" / name
    part.parent.mkdir(parents=True)
    part.write_bytes(b"xyz")
    _leased(started()).push({name: path})
    assert (tmp_path / "rig" / "blobs" / name).read_bytes() == b"abcdef"


def test_a_file_that_changes_while_it_is_sent_is_refused(started: Started, tmp_path: Path) -> None:
    name, path = file_of(tmp_path, b"abcdef")
    path.write_bytes(b"abcdeX")
    with pytest.raises(StorageError, match="another file"):
        _leased(started()).push({name: path})
    assert not (tmp_path / "rig" / "blobs" / name).exists()


def test_too_little_disk_is_said_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(Store, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(StorageError, match=r"2.0 MiB are to be pushed; 1.0 MiB are free"):
        store.missing({"a" * 64: 2 << 20})


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a//b", ".x", "a\0b"])
def test_no_name_leads_out_of_the_folder(started: Started, tmp_path: Path, name: str) -> None:
    sha256, path = file_of(tmp_path, b"x")
    rig = _leased(started())
    rig.push({sha256: path})
    with pytest.raises(VerificationError):
        rig.stage("ab" * 16, {name: sha256})
    with pytest.raises(VerificationError):
        rig.stage(name, {"x": sha256})
    with pytest.raises(SlipwayError):
        rig.fetch("1", name)
    with pytest.raises(SlipwayError):
        rig.fetch(name, "log.txt")
    assert not list(tmp_path.parent.rglob("x"))


def test_what_is_damaged_on_the_disk_is_not_put_together(started: Started, tmp_path: Path) -> None:
    name, path = file_of(tmp_path, b"abc")
    rig = _leased(started())
    rig.push({name: path})
    (tmp_path / "rig" / "blobs" / name).write_bytes(b"abd")
    with pytest.raises(VerificationError, match="not here whole"):
        rig.stage("ab" * 16, {"a": name})
    assert push_files(rig, {"a": path}), "it is sent again"


def test_cleaning_keeps_what_was_used_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(4):
        (tmp_path / "blobs" / f"{number:064d}").write_bytes(b"x" * 100)
        os.utime(tmp_path / "blobs" / f"{number:064d}", (number, number))
    assert store.clean(keep_bytes=250) == ["0 MiB that were not used for the longest time"]
    assert sorted(path.name[-1] for path in (tmp_path / "blobs").iterdir()) == ["2", "3"]


# What runs


def test_what_others_left_is_cleaned_up_and_said(started: Started, tmp_path: Path) -> None:
    one = _leased(started())
    look(one)
    os.kill(_pid(one), signal.SIGKILL)
    assert started().lease("me@here", lambda _: None, wait_s=5) == ["1 runs that were cut off"]
    two = started()
    assert not list((tmp_path / "rig" / "runs").iterdir())
    two.close()


def test_a_run_that_ends_well_leaves_nothing(started: Started, tmp_path: Path) -> None:
    one = _leased(started())
    look(one)
    one.close()
    assert not list((tmp_path / "rig" / "runs").iterdir())


def test_a_lease_that_is_given_back_is_the_next_ones_while_the_line_stays(
    started: Started, tmp_path: Path
) -> None:
    one, two = _leased(started()), started()
    look(one)
    one.release()
    assert two.lease("two@here", lambda _: None, wait_s=5) == [], "nothing was left"
    with pytest.raises(UsageError, match="not this client's"):
        one.run("look", time_limit_s=5)
    two.release()
    assert look(_leased(one)).identity["arch"]


def _run_aside(rig: Rig, **more: Any) -> tuple[threading.Thread, list[Any]]:
    """A run that would take for ever, in a thread; what came of it."""
    ends: list[Any] = []

    def work() -> None:
        try:
            ends.append(rig.run("look", **{"time_limit_s": 60, **more}))
        except SlipwayError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, ends


def _job(rig: Rig) -> int:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for pid in tree(_pid(rig))[1:]:
            with contextlib.suppress(OSError):  # before it is told apart it is the runner's copy
                if b"agent.rig.job" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        time.sleep(0.002)
    raise AssertionError("no job was started")


@pytest.mark.parametrize(
    ("end", "outcome"), [(signal.SIGKILL, "crashed"), (signal.SIGSTOP, "timeout")]
)
def test_a_job_that_dies_or_hangs_has_a_typed_end(started: Started, end: int, outcome: str) -> None:
    rig = _leased(started())
    thread, ends = _run_aside(rig, time_limit_s=3)
    os.kill(_job(rig), end)
    thread.join(20)
    assert ends[0]["outcome"] == outcome
    assert look(rig).identity["arch"], "the rig goes on"


def test_a_second_run_on_one_line_is_refused(started: Started) -> None:
    rig = _leased(started())
    thread, _ = _run_aside(rig)
    os.kill(_job(rig), signal.SIGSTOP)
    with pytest.raises(UsageError, match="under way"):
        rig.run("look", time_limit_s=5)
    os.kill(_job(rig), signal.SIGKILL)
    thread.join(20)


def test_a_client_that_goes_ends_its_run(started: Started) -> None:
    rig = _leased(started())
    thread, ends = _run_aside(rig)
    job = _job(rig)
    os.kill(job, signal.SIGSTOP)
    rig.close()
    thread.join(20)
    assert isinstance(ends[0], LinkLostError)
    until = time.monotonic() + 10
    while lives(job) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(job)
    _leased(started())


def test_a_client_that_is_silent_loses_the_rig(started: Started, tmp_path: Path) -> None:
    home = str(tmp_path / "rig")
    code = f"from agent.rig import serve; serve.SILENT_S = 1.0; serve.serve({home!r})"
    runner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with runner:
        assert runner.stdin is not None
        runner.stdin.write(b'{"id": 1, "verb": "lease", "name": "silent@here"}\n')
        runner.stdin.flush()
        assert runner.wait(20) == 3  # its line is still open: nothing else tells that it is dead
        _leased(started())


# Who answers


def test_noise_before_the_runner_is_read_past(started: Started) -> None:
    code = "print('Welcome to Ubuntu');print('{\"a\": 1}');print(7,flush=True);" + READ
    assert started([sys.executable, "-u", "-c", code]).boot_id


def test_one_who_only_talks_is_no_rig(started: Started) -> None:
    code = "print('x' * 1000, flush=True)\n" * 80
    with pytest.raises(LinkLostError, match="says"):
        started([sys.executable, "-u", "-c", code + READ])


def test_no_python_there_is_said_with_its_words(started: Started) -> None:
    with pytest.raises(LinkLostError, match="python9: not found"):
        started(["sh", "-c", "exec python9 -u -c x"])


def test_an_old_python_is_refused_by_its_version(started: Started) -> None:
    code = READ.replace("import sys;", "import sys;sys.version_info=(3,8,10,'final',0);")
    with pytest.raises(UsageError, match=r"Python 3\.8\.10"):
        started([sys.executable, "-u", "-c", code])


def test_a_folder_that_cannot_be_written_is_said(started: Started, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot use its folder"):
        started(folder=tmp_path / "file" / "rig")


def test_what_is_no_request_ends_the_line_and_nothing_else(tmp_path: Path) -> None:
    runner = subprocess.run(
        [sys.executable, "-c", f"from agent.rig.serve import serve; serve({str(tmp_path)!r})"],
        input=b'{"id": 1, "verb": "beat"}\n{"id": 2, "verb": "nothing"}\nGET / HTTP/1.1\n',
        capture_output=True,
        check=True,
    )
    first, second, third = map(json.loads, runner.stdout.splitlines())
    assert first["result"] == {}
    assert "nothing" in second["error"]["what"]
    assert "GET" in third["error"]["what"]


def test_a_runtime_that_prints_does_not_disturb_the_answers(tmp_path: Path) -> None:
    code = (
        "import os, threading; from agent.rig import serve;"
        "serve.Runner._beat = lambda self: os.write(1, b'noise') and print('more') or {};"
        f"serve.serve({str(tmp_path)!r})"
    )
    runner = subprocess.run(
        [sys.executable, "-c", code], input=b'{"id": 1, "verb": "beat"}\n', capture_output=True,
        check=True,
    )  # fmt: skip
    assert json.loads(runner.stdout)["result"] == {}
    assert b"noise" in runner.stderr


# What is sent


def test_the_bundle_runs_alone_and_knows_nothing_of_updates(tmp_path: Path) -> None:
    import io
    import zipfile

    names = [path.name for path in modules()]
    assert "bench.py" in names
    assert not {"journal.py", "trust.py", "active.py", "cli.py"} & set(names)
    zipfile.ZipFile(io.BytesIO(bundle().content)).extractall(tmp_path)
    code = (
        "import sys; sys.path[:] = [sys.argv[1], *(p for p in sys.path if 'site' not in p)];"
        "import agent.rig.serve, agent.rig.job; print(agent.rig.serve.VERSION);"
        "assert 'numpy' not in sys.modules"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert int(found.stdout) == serve.VERSION
    bundle.cache_clear()
    assert bundle() == bundle()
