"""A real OpenSSH server, a user without rights, and what can go wrong on the way there."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.bench import Budget, Failure, Measurement
from agent.errors import NetworkError, SlipwayError, UsageError, VerificationError
from agent.identity import fingerprint
from agent.processes import lives
from agent.tensors import write_tensors
from agent.variant import read_record
from hil import bench
from hil.link import host_key, key_name, trust
from hil.outcome import LinkLostError
from hil.rig import Rig
from sdk.cli.app import run
from tests.hil.conftest import Loopback, file_of
from tests.hil.variants import tiny_onnx

pytestmark = pytest.mark.device


def test_it_is_reached_and_says_what_it_is(loopback: Loopback) -> None:
    with loopback.open() as rig:
        rig.lease("me@here", lambda _: None, wait_s=20)
        assert bench.look(rig).identity == fingerprint().identity
        assert rig.hello["folder"] == loopback.entry.folder


def test_a_file_goes_there_once_and_after_a_cut_from_where_it_was(
    loopback: Loopback, tmp_path: Path
) -> None:
    content = os.urandom(8 << 20)
    name, path = file_of(tmp_path, content)
    rig = loopback.open()
    rig.lease("me@here", lambda _: None, wait_s=20)
    sent: list[int] = []

    def cut(count: int, total: int) -> None:
        sent.append(count)
        if count > total // 2:
            rig._line._channel.transport.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]

    with pytest.raises(LinkLostError):
        rig.push({name: path}, cut)
    with loopback.open() as again:
        again.lease("me@here", lambda _: None, wait_s=20)
        rest = again.push({name: path})
        assert 0 < rest < len(content)
        assert again.push({name: path}) == 0


def test_a_link_that_is_cut_in_a_run_ends_it_there(loopback: Loopback) -> None:
    rig = loopback.open()
    rig.lease("me@here", lambda _: None, wait_s=20)
    ends: list[BaseException] = []

    def work() -> None:
        try:
            rig.run("probe", time_limit_s=60)
        except SlipwayError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    rig._line._channel.transport.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    thread.join(20)
    assert not ends or isinstance(ends[0], LinkLostError)
    with loopback.open() as again:
        again.lease("me@here", lambda _: None, wait_s=20)


# Who is let in, and who is believed


def test_a_host_whose_key_nobody_knows_is_refused(loopback: Loopback, tmp_path: Path) -> None:
    loopback_known, loopback.known_hosts = loopback.known_hosts, tmp_path / "none"
    try:
        with pytest.raises(VerificationError, match="not known: it shows SHA256:"):
            loopback.open()
    finally:
        loopback.known_hosts = loopback_known


def test_a_host_that_shows_another_key_is_refused(loopback: Loopback, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True
    )
    kind, other = (tmp_path / "other.pub").read_text().split()[:2]
    spoilt = tmp_path / "known_hosts"
    name = loopback.known_hosts.read_text().split()[0]
    spoilt.write_text(f"{name} {kind} {other}\n")
    before, loopback.known_hosts = loopback.known_hosts, spoilt
    try:
        with pytest.raises(VerificationError, match=r"shows the key SHA256:.*known is SHA256:"):
            loopback.open()
        shown = host_key(loopback.entry, loopback.inventory, spoilt)
        assert key_name(shown) in _names(loopback)
        trust(loopback.entry, shown, spoilt)
        loopback.open().close()
        assert other not in spoilt.read_text()
    finally:
        loopback.known_hosts = before


def _names(loopback: Loopback) -> str:
    return subprocess.run(
        ["ssh-keygen", "-lf", loopback.folder / "host.pub"], check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip


def test_a_key_that_is_not_let_in_is_told(loopback: Loopback, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True
    )
    with pytest.raises(NetworkError, match="is not let in"):
        loopback.open(dataclasses.replace(loopback.entry, key=str(tmp_path / "key")))
    with pytest.raises(UsageError, match="is not here"):
        loopback.open(dataclasses.replace(loopback.entry, key=str(tmp_path / "nokey")))


def test_a_key_with_a_passphrase_takes_it_from_the_variable(
    loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "id"
    locked.write_bytes((loopback.folder / "id").read_bytes())
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", locked], check=True)
    entry = dataclasses.replace(loopback.entry, key=str(locked))
    with pytest.raises(UsageError, match="passphrase"):
        loopback.open(entry)
    entry = dataclasses.replace(entry, passphrase_env="RIG_PASSPHRASE")
    with pytest.raises(UsageError, match="RIG_PASSPHRASE is not set"):
        loopback.open(entry)
    monkeypatch.setenv("RIG_PASSPHRASE", "secret")
    loopback.open(entry).close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "no-such-host.invalid"}, "cannot be reached"),
        ({"port": 1}, "cannot be reached"),
        ({"user": "nobody-here"}, "is not let in"),
        ({"python": "/usr/bin/python2.9"}, "No runner answers"),
        ({"python": "/bin/true"}, "No runner answers"),
        ({"folder": "/proc/rig"}, "cannot use its folder"),
        ({"folder": "/etc/rig"}, "cannot use its folder"),
    ],
)
def test_what_is_wrong_with_a_rig_is_named(
    loopback: Loopback, changes: dict[str, str | int], told: str
) -> None:
    with pytest.raises(SlipwayError) as caught:
        loopback.open(dataclasses.replace(loopback.entry, **changes))
    assert told in caught.value.what
    assert caught.value.remedy


def test_a_rig_behind_another_is_reached_through_it(loopback: Loopback, tmp_path: Path) -> None:
    text = loopback.inventory_file.read_text()
    inner = text.replace("[rig.loopback]", '[rig.inner]\njump = "loopback"')
    whole = Loopback(tmp_path, text + inner)
    whole.known_hosts = loopback.known_hosts
    # This server forbids nothing, so it forwards to itself.
    with whole.open(whole.inventory.rig("inner")) as rig:
        assert rig.boot_id


# The command line, on a variant


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.hil.variants import tiny_onnx

    return tiny_onnx(tmp_path_factory.mktemp("built"))


def _leased(loopback: Loopback) -> Rig:
    rig = loopback.open()
    rig.lease("me@here a test", lambda _: None, wait_s=60)
    return rig


@pytest.mark.toolchain
def test_a_variant_answers_there_as_it_does_here(
    runtime: Loopback, variant: Path, tmp_path: Path
) -> None:
    from agent.sessions import load
    from agent.tensors import read_tensors

    inputs = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)
    questions = tmp_path / "q.safetensors"
    write_tensors(questions, [("00000/in/x", inputs)])
    with _leased(runtime) as rig:
        found = bench.answers(rig, variant, questions, time_limit_s=60)
    (tmp_path / "a.safetensors").write_bytes(found.content)
    there = read_tensors(tmp_path / "a.safetensors")["00000/out/y"]
    with load(variant) as session:
        here = session.run({"x": inputs})["y"]
    np.testing.assert_array_equal(there, here)


@pytest.mark.toolchain
def test_it_is_measured_there_with_what_it_was_measured_under(
    runtime: Loopback, variant: Path, tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs.safetensors"
    write_tensors(inputs, [("00000/in/x", np.ones((1, 8), np.float32))])
    with _leased(runtime) as rig:
        found = bench.contest(
            rig, {"a": variant, "b": variant}, inputs=inputs,
            budget=Budget(seconds_per_contestant=0.3),
        )  # fmt: skip
    for one in found.values():
        assert isinstance(one, Measurement)
        assert one.latency_ms.p50 > 0
        assert one.versions["onnxruntime"]
        assert one.conditions_before.load_1m is not None


@pytest.mark.toolchain
def test_the_log_of_who_fails_in_a_contest_comes_back(
    runtime: Loopback, variant: Path, tmp_path: Path
) -> None:
    write_tensors(tmp_path / "inputs", [("00000/in/x", np.ones((1, 8), np.float32))])
    (tmp_path / "logs").mkdir()
    contestants = {"well": variant, "x/nan": tiny_onnx(tmp_path / "nan", nan=True)}
    with _leased(runtime) as rig:
        found = bench.contest(
            rig, contestants, inputs=tmp_path / "inputs", log_folder=tmp_path / "logs",
            budget=Budget(seconds_per_contestant=0.1),
        )  # fmt: skip
    assert isinstance(found["well"], Measurement)
    assert isinstance(found["x/nan"], Failure)
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == "x_nan.log"
    assert "Removing initializer 'unused'" in log.read_text()


@pytest.mark.toolchain
def test_a_variant_that_is_broken_says_so_by_its_own_name(
    runtime: Loopback, variant: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in variant.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / read_record(variant).files[0].path).write_bytes(b"nonsense")
    questions = tmp_path / "q.safetensors"
    write_tensors(questions, [("00000/in/x", np.ones((1, 8), np.float32))])
    with _leased(runtime) as rig:
        with pytest.raises(SlipwayError) as caught:
            bench.answers(rig, broken, questions, time_limit_s=60)
        assert "rig" in str(caught.value) or "tiny" in str(caught.value)
        assert bench.look(rig).identity["arch"], "the rig goes on"


def test_the_verbs_work_on_it(
    reachable: Loopback, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inventory = ["--inventory", str(reachable.inventory_file)]
    assert run(["hil", "list", "--json", *inventory]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["state"]) == ("loopback", "free")
    assert run(["hil", "probe", "loopback", "--json", *inventory]) == 0
    assert json.loads(capsys.readouterr().out)["probe"]["fingerprint"]["identity"]["arch"]
    assert run(["hil", "doctor", "loopback", "--clean", "--json", *inventory]) == 0
    assert {"Python", "disk", "clock"} <= {
        one["what"] for one in json.loads(capsys.readouterr().out) if one["is_well"]
    }
    assert run(["hil", "lock", "loopback", "--why", "fan", *inventory]) == 0
    assert run(["hil", "doctor", "loopback", *inventory]) == 0, "its own user may look"
    assert "sdk hil unlock loopback" in capsys.readouterr().out
    assert run(["hil", "list", *inventory]) == 0
    assert "set aside by" in capsys.readouterr().out
    assert run(["hil", "unlock", "loopback", *inventory]) == 0
    assert run(["hil", "probe", "lopback", *inventory]) == 2
    assert "loopback" in capsys.readouterr().err


def test_a_program_is_run_there_and_ends_the_command_with_its_status(
    reachable: Loopback, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script, where = tmp_path / "check.sh", ["--inventory", str(reachable.inventory_file)]
    script.write_text("id -un; echo $1; exit 3")
    send = ["--send", str(script)]
    assert run(["hil", "run", "loopback", *where, *send, "--", "sh", "check.sh", "$a b"]) == 3
    assert capsys.readouterr().out == "slipway-rig\n$a b\n"
    assert run(["hil", "run", "loopback", *where, "--", "true"]) == 0
    assert run(["hil", "run", "loopback", *where, "--limit", "1", "--", "sleep", "30"]) == 4
    assert "timeout" in capsys.readouterr().err
    assert run(["hil", "run", "loopback", *where, "--", "no-such-program"]) == 2
    assert run(["hil", "run", "loopback", *where, "--send", str(tmp_path), "--", "true"]) == 2


def test_an_interrupted_command_leaves_nothing_running_there(reachable: Loopback) -> None:
    words = ["-m", "sdk", "hil", "run", "loopback", "--inventory", str(reachable.inventory_file)]
    client = subprocess.Popen(
        [sys.executable, *words, "--", "sh", "-c", "echo $$; exec sleep 60"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with client:
        assert client.stdout is not None
        there = int(client.stdout.readline())
        client.send_signal(signal.SIGINT)
        assert client.wait(20) == 130
    until = time.monotonic() + 10
    while lives(there) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(there)


def test_a_rig_that_no_profile_fits_has_one_drafted(
    reachable: Loopback, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inventory = ["--inventory", str(reachable.inventory_file)]
    assert run(["hil", "probe", "loopback", "--draft", "--json", *inventory]) == 0
    first = json.loads(capsys.readouterr().out)
    if first["draft"] is None:
        pytest.skip("a profile fits this machine")
    assert run(["profiles", "check", first["draft"]]) == 0
    capsys.readouterr()
    assert run(["hil", "probe", "loopback", "--draft", *inventory]) == 0
    assert "It is: loopback" in capsys.readouterr().out, "it fits from now on"
    own = str(tmp_path / "mine.toml")
    Path(first["draft"]).unlink()
    assert run(["hil", "probe", "loopback", "--draft", "--out", own, *inventory]) == 0
    assert run(["profiles", "check", own]) == 0
    assert run(["hil", "probe", "loopback", "--draft", "--out", own, *inventory]) == 2


def test_a_rig_is_added_once_its_key_was_compared(
    loopback: Loopback, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entry, file = loopback.entry, tmp_path / "hil.toml"
    address = f"{entry.user}@{entry.host}:{entry.port}"
    arguments = [
        "hil", "add", "bench-1", address, "--key", str(entry.key), "--folder", entry.folder,
        "--inventory", str(file),
    ]  # fmt: skip
    assert run(arguments) == 2, "nobody is here to compare it"
    assert "--fingerprint SHA256:" in capsys.readouterr().err
    assert run([*arguments, "--fingerprint", "SHA256:" + "A" * 43]) == 7
    assert not file.exists()
    shown = key_name(host_key(entry, loopback.inventory, tmp_path / "none"))
    assert run([*arguments, "--fingerprint", shown]) == 0
    assert run([*arguments, "--fingerprint", shown]) == 2, "the name is taken"
    assert run(["hil", "probe", "bench-1", "--inventory", str(file)]) == 0
    assert run(["hil", "add", "bench-1", "--again", "--fingerprint", shown, "--inventory",
                str(file)]) == 0  # fmt: skip


def test_a_client_that_is_killed_leaves_the_rig_free(reachable: Loopback) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sdk.rigs import reached\n"
        "with reached('loopback', Path(sys.argv[1]), print, what='a test'):\n"
        "    print('here', flush=True); time.sleep(60)\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code, str(reachable.inventory_file)], stdout=subprocess.PIPE
    )
    with client:
        assert client.stdout is not None
        while client.stdout.readline() != b"here\n":
            assert client.poll() is None
        client.send_signal(signal.SIGKILL)
        began = time.monotonic()
        with _leased(reachable):
            assert time.monotonic() - began < 10
