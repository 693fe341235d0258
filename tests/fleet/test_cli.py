"""`sdk fleet` as an operator or a script calls it, against a real server."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.updates.wire import Reports, StateOf
from sdk.cli.app import run
from sdk.cli.fleet_common import seconds, share, share_or_count
from sdk.cli.fleet_watch import picture
from sdk.fleet.chores import move_on
from tests.fleet.client import Client
from tests.fleet.world import PRINT, Device, World, doing, runs
from tests.updates.fleet import PASSPHRASE

GROUP = "line-3"
ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Operator:
    """Calls `sdk fleet`."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Said:
        found = run(["fleet", *arguments])
        said = Said(*self._capsys.readouterr())
        assert found == code, said
        assert "Traceback" not in said.err
        return said


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Which database answers makes no difference here."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@pytest.fixture
def sdk(
    client: Client, world: World, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Operator:  # fmt: skip
    """The command line of an admin of this server, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIPWAY_SERVER", client.address)
    monkeypatch.setenv("SLIPWAY_API_KEY", world.keys["default", "admin"])
    monkeypatch.setenv("SLIPWAY_PASSPHRASE", PASSPHRASE)
    return Operator(capsys)


def confirm(client: Client, world: World, device: Device, rollout: str, release: str) -> None:
    """The device takes what it is given, and confirms it; the server looks at its rollouts."""
    assert client.poll(device).assignment is not None
    action = f"{rollout}-{device.device_id}"
    client.state(device, action, StateOf(state="TRIAL", journal_seq=5))
    sha256 = world.tenants["default"].release("net", release).manifest_sha256
    client.poll(
        device, actions=(doing(action, "CONFIRMED", 6),), models=(runs(sha256, release=release),)
    )
    move_on(world.server)


def fail(client: Client, world: World, device: Device, rollout: str) -> None:
    client.poll(device)
    action = f"{rollout}-{device.device_id}"
    client.poll(device, actions=(doing(action, "FAILED", 6, "too \x1b[31mslow"),))
    move_on(world.server)


def begun(sdk: Operator, *more: str, release: str = "1.0.0") -> str:
    return str(sdk("assign", "net", release, "--group", GROUP, *more, "--json").json["rollout"])


def test_a_token_stands_alone_on_stdout_and_lets_a_device_in(client: Client, sdk: Operator) -> None:
    said = sdk("tokens", "add", "--group", GROUP, "--valid", "2h")
    token = said.out.strip()
    assert said.out == f"{token}\n"
    assert f"sdk-agent enroll {client.address} --token" in said.err
    assert token not in said.err, "a log of stderr lets nobody in"
    device = Device()
    assert client.enroll(device, token=token).json["status"] == "accepted"
    (shown,) = sdk("tokens", "list", "--json").json
    assert (shown["group_name"], shown["used_by"]) == (GROUP, device.device_id)
    assert round(shown["expires_s"] - shown["made_s"]) == 7200
    assert token not in sdk("tokens", "list").out


def test_a_token_that_was_dropped_lets_nobody_in(client: Client, sdk: Operator) -> None:
    made = sdk("tokens", "add", "--json").json
    assert "lets nobody in" in sdk("tokens", "drop", made["id"]).out
    assert client.enroll(Device(), token=made["token"]).code == "token"
    assert "There is no token" in sdk("tokens", "list").out
    assert "There is no token" in sdk("tokens", "drop", made["id"], code=2).err


def test_a_device_that_waits_is_compared_and_accepted(client: Client, sdk: Operator) -> None:
    device = Device()
    client.enroll(device)
    waiting = sdk("devices", "list", "--standing", "pending")
    (shown,) = sdk("devices", "list", "--standing", "pending", "--json").json
    assert shown["key_fingerprint"] in waiting.out
    assert "--standing pending" in sdk("status").out
    assert "is accepted" in sdk("devices", "accept", device.device_id).out
    assert client.poll(device).next_poll_s > 0
    assert "There is no such device" in sdk("devices", "list", "--standing", "pending").out


def test_a_device_is_moved_turned_away_and_removed(client: Client, sdk: Operator) -> None:
    device = client.enrolled(GROUP)
    name = device.device_id
    assert "line-4" in sdk("devices", "move", name, "--group", "line-4").out
    assert sdk("devices", "show", name, "--json").json["group"] == "line-4"
    sdk("devices", "move", name, "--no-group")
    assert sdk("devices", "list", "--group", "line-4", "--json").json == []
    sdk("devices", "reject", name, "--why", "not ours")
    assert "rejected (not ours)" in sdk("devices", "show", name).out
    assert client.signed(device, "/v1/poll", device.poll()).code == "rejected"
    assert sdk("devices", "remove", name, "--json").json == [{"device": name, "done": "removed"}]
    assert "it was removed" in sdk("devices", "show", name).out
    assert "one group, or into none" in sdk("devices", "move", name, code=2).err


def test_an_announced_device_needs_no_token(client: Client, sdk: Operator) -> None:
    device = Device()
    sdk("devices", "announce", device.public_key.hex().upper(), "--group", GROUP)
    assert client.enroll(device).json["status"] == "accepted"
    (shown,) = sdk("devices", "list", "--group", GROUP, "--json").json
    assert shown["id"] == device.device_id


def test_groups_are_made_and_dropped_unless_a_rollout_is_under_way(
    client: Client, world: World, sdk: Operator
) -> None:
    assert sdk("groups", "add", GROUP, "--json").json == {"group": GROUP, "new": True}
    assert "already" in sdk("groups", "add", GROUP).out
    world.fleet.publish("1.0.0")
    client.enrolled(GROUP)
    rollout = begun(sdk)
    assert f"rollouts cancel {rollout}" in sdk("groups", "drop", GROUP, code=2).err
    sdk("rollouts", "cancel", rollout)
    assert "is gone" in sdk("groups", "drop", GROUP).out
    assert "There is no group" in sdk("groups", "list").out


def test_before_it_starts_it_is_said_who_can_run_a_release(
    client: Client, world: World, sdk: Operator
) -> None:
    match = {"identity.arch": "x86_64"}
    world.fleet.publish("1.0.0", world.fleet.build("amd", match=match))
    other = dataclasses.replace(PRINT, identity={**PRINT.identity, "arch": "aarch64"})
    for known in (PRINT, PRINT, other):
        client.enrolled(GROUP, print=known)
    said = sdk("assign", "net", "1.0.0", "--group", GROUP, "--dry-run")
    assert said.err.splitlines() == [
        "2 can run it",
        "1 cannot: no variant is for its hardware (aarch64, test)",
    ]
    assert "dry run" in said.out
    assert sdk("rollouts", "list", "--json").json == []
    alone = client.enrolled("alone", print=other)
    refused = sdk("assign", "net", "1.0.0", "--device", alone.device_id, code=2).err
    assert "1 devices: no variant is for its hardware" in refused
    assert sdk("assign", "net", "1.0.0", "--all", "--json").json["fit"]["fits"] == 2


def test_the_options_of_an_assignment_are_the_plan_of_its_rollout(
    client: Client, world: World, sdk: Operator
) -> None:
    world.fleet.publish("1.0.0")
    client.enrolled(GROUP)
    rollout = begun(
        sdk, "--stages", "1, 10%,0.5,100%", "--confirmed", "90%", "--soak", "10m",
        "--timeout", "2d", "--halt-at", "0.3", "--halt-min", "7", "--on-halt", "revert",
        "--slower-at-most", "1.1", "--deadline", "30m",
    )  # fmt: skip
    found = sdk("rollouts", "show", rollout, "--json").json
    stages = [(one["count"], one["share"]) for one in found["plan"]["stages"]]
    assert stages == [(1, None), (None, 0.1), (None, 0.5), (None, 1.0)]
    for stage in found["plan"]["stages"]:
        assert (stage["confirmed_share"], stage["soak_s"], stage["timeout_s"]) == (0.9, 600, 172800)
    (threshold,) = found["plan"]["halt_if"]
    assert (threshold["share"], threshold["at_least"]) == (0.3, 7)
    assert found["plan"]["on_halt"] == "revert"
    assert found["gates"][0]["ratio_max_permille"] == 1100
    (order,) = [
        one["about"] for one in sdk("audit", "--json").json if one["did"] == "release assigned"
    ]
    assert order["deadline_s"] == 1800


def test_gates_are_asked_for_and_shown(client: Client, world: World, sdk: Operator) -> None:
    world.fleet.publish("1.0.0")
    device = client.enrolled(GROUP)
    how = ("--gate", "latency@950<=1.1", "--gate", "drop <= 1%", "--gate-confidence", "50%")
    dry = sdk("assign", "net", "1.0.0", "--all", *how, "--dry-run").err
    assert "reaches about 1 of the 1 devices of x86_64, and its gates need 2: it stops" in dry
    how += ("--liars", "0%", "--unproven", "pass")
    rollout = begun(sdk, "--stages", "100%", *how)
    (stage,) = sdk("rollouts", "show", rollout, "--json").json["plan"]["stages"]
    assert stage["advance_if"]["gates"] == [
        {"quantity": "latency", "limit_ppm": 1_100_000, "quantile_permille": 950},
        {"quantity": "drop", "limit_ppm": 10_000, "quantile_permille": 500},
    ]
    assert (stage["advance_if"]["unproven"], stage["advance_if"]["liars"]) == ("pass", 0.0)
    client.poll(device)
    sha256 = world.tenants["default"].release("net", "1.0.0").manifest_sha256
    facts = {"ratios_to_running": {"latency@950": "1.25"}}
    more = {"variant": "v", "manifest_sha256": sha256, "proof": {"v": {"facts": facts}}}
    envelope = device.report(f"{rollout}-{device.device_id}", "TRIAL", **more)
    client.signed(device, "/v1/reports", Reports(reports=(envelope,)))
    move_on(world.server)
    shown = sdk("rollouts", "show", rollout).out.splitlines()
    rows = [line.split() for line in shown if "x86_64" in line and "<=" in line]
    assert rows == [
        ["latency@950", "x86_64", "1", "1.250", "1.250", "to", "1.250", "<=", "1.1", "broken"],
        ["drop", "x86_64", "0", "of", "1", "-", "-", "<=", "0.01", "unproven"],
    ]
    found = client.do("GET", f"/rollouts/{rollout}")
    terminal = Console(width=120, file=io.StringIO())
    terminal.print(picture(found))
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "latency@950   x86_64     1         1.250    1.250 to 1.250   <= 1.1    broken" in drawn
    said = sdk("watch", rollout, code=3).out
    assert "latency@950 of x86_64 is 1.25 (1.25 to 1.25) on 1 devices" in said


def test_a_stage_too_small_for_its_gates_has_none(
    client: Client, world: World, sdk: Operator
) -> None:
    world.fleet.publish("1.0.0")
    client.enrolled(GROUP)
    whom = ("net", "1.0.0", "--group", GROUP, "--stages", "1,100%", "--gate", "memory<=1.2")
    found = sdk("assign", *whom)
    assert "stage 1 reaches 1 devices, and a gate needs 6: its gates are left out" in found.err
    (one,) = sdk("rollouts", "list", "--json").json
    stages = sdk("rollouts", "show", one["id"], "--json").json["plan"]["stages"]
    assert [stage["advance_if"] is None for stage in stages] == [True, False]


WRONG_GATES: dict[str, tuple[tuple[str, ...], str]] = {
    "a quantity that nobody measures": (("--gate", "energy<=1"), "--gate cannot be 'energy<=1'"),
    "the wrong way round": (("--gate", "latency>=1.1"), "--gate cannot be"),
    "no number": (("--gate", "memory<=nan"), "--gate cannot be"),
    "a quantile of memory": (("--gate", "memory@950<=1"), "--gate cannot be"),
    "one twice": (("--gate", "drop<=1%", "--gate", "drop<=2%"), "drop, drop: each once"),
    "a quantile that nobody measures": (("--gate", "latency@42<=1"), "at 42 permille"),
    "certainty": (("--gate", "drop<=1%", "--gate-confidence", "100%"), "a confidence of 1"),
    "most of them lie": (("--gate", "drop<=1%", "--liars", "60%"), "though 0.6 lie"),
}


@pytest.mark.parametrize("name", WRONG_GATES)
def test_a_gate_that_is_none_is_refused(sdk: Operator, name: str) -> None:
    options, told = WRONG_GATES[name]
    found = sdk("assign", "net", "1.0.0", "--all", *options, code=2)
    assert told in found.err


def test_a_rollout_is_paused_resumed_and_reverted(
    client: Client, world: World, sdk: Operator
) -> None:
    world.fleet.publish("1.0.0")
    client.enrolled(GROUP)
    rollout = begun(sdk, "--stages", "1,100%")
    assert sdk("rollouts", "pause", rollout, "--json").json["state"] == "paused"
    assert "is paused" in sdk("rollouts", "pause", rollout).out
    assert "is running" in sdk("rollouts", "resume", rollout).out
    assert rollout in sdk("status").out
    assert rollout in sdk("rollouts", "list").out
    assert "is reverted" in sdk("rollouts", "revert", rollout).out
    assert "cannot resume" in sdk("rollouts", "resume", rollout, code=2).err


@pytest.mark.slow
def test_watching_ends_well_with_a_rollout_that_is_finished(
    client: Client, world: World, sdk: Operator
) -> None:
    world.fleet.publish("1.0.0")
    device = client.enrolled(GROUP)

    def work() -> None:
        while not (found := client.do("GET", "/rollouts")["items"]):
            pass
        confirm(client, world, device, found[0]["id"], "1.0.0")

    thread = threading.Thread(target=work)
    thread.start()
    said = sdk("assign", "net", "1.0.0", "--group", GROUP, "--watch")
    thread.join()
    assert "1 can run it" in said.err
    assert "has begun" in said.out
    assert "finished, stage 1 of 1: confirmed 1" in said.out.splitlines()[-1]
    (shown,) = sdk("devices", "list", "--json").json
    assert shown["models"][0]["running"] == "1.0.0"
    assert "net 1.0.0" in sdk("devices", "list").out
    assert "CONFIRMED" in sdk("devices", "show", device.device_id).out


def test_watching_ends_with_a_code_of_its_own_where_a_rollout_was_halted(
    client: Client, world: World, sdk: Operator
) -> None:
    world.fleet.publish("1.0.0")
    devices = [client.enrolled(GROUP) for _ in range(2)]
    rollout = begun(sdk, "--halt-min", "1")
    for device in devices:
        fail(client, world, device, rollout)
    said = sdk("watch", rollout, "--json", code=3)
    (line,) = said.out.splitlines()
    assert json.loads(line)["state"] == "halted"
    assert f"rollouts show {rollout}" in said.err
    shown = sdk("rollouts", "show", rollout).out
    assert "FAILED: too" in shown
    assert "\x1b" not in shown, "what a device says does not steer a terminal"


def test_ctrl_c_ends_the_watching_alone(client: Client, world: World, sdk: Operator) -> None:
    world.fleet.publish("1.0.0")
    client.enrolled(GROUP)
    rollout = begun(sdk)
    with subprocess.Popen(
        [sys.executable, "-m", "sdk", "fleet", "watch"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        assert "devices: 1 accepted" in watching.stdout.readline()
        assert rollout in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert err == "the watching ends; nothing was changed\n"
    assert sdk("rollouts", "show", rollout, "--json").json["state"] == "running"


def test_a_terminal_shows_bars(client: Client, world: World, sdk: Operator) -> None:
    world.fleet.publish("1.0.0")
    device = client.enrolled(GROUP)
    rollout = begun(sdk)
    confirm(client, world, device, rollout, "1.0.0")
    reader, writer = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sdk", "fleet", "watch", rollout], cwd=ROOT, stdout=writer,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as watching:  # fmt: skip
        assert watching.wait(30) == 0
    os.close(writer)
    shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert "finished, stage 1 of 1" in shown
    assert "█" * 32 in shown
    assert "confirmed 1" in shown


def test_reports_are_shown_the_newest_at_the_end(client: Client, sdk: Operator) -> None:
    assert "There is no report" in sdk("reports").out
    first, second = client.enrolled(), client.enrolled()
    for number, device in enumerate((first, second, first)):
        envelope = device.report(f"a-{number}", "FAILED", reason=f"reason {number}")
        client.signed(device, "/v1/reports", Reports(reports=(envelope,)))
    found = sdk("reports", "--limit", "2", "--json").json
    assert [one["action_id"] for one in found] == ["a-1", "a-2"]
    (other,) = sdk("reports", "--device", second.device_id).out.splitlines()
    assert "reason 1" in other


@pytest.mark.slow
def test_reports_are_followed_until_ctrl_c(client: Client, sdk: Operator) -> None:
    device = client.enrolled()

    def send(number: int) -> None:
        envelope = device.report(f"a-{number}", "FAILED")
        client.signed(device, "/v1/reports", Reports(reports=(envelope,)))

    send(0)
    with subprocess.Popen(
        [sys.executable, "-m", "sdk", "fleet", "reports", "--follow", "--json"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["action_id"] == "a-0"
        send(1)
        assert json.loads(following.stdout.readline())["action_id"] == "a-1"
        following.send_signal(signal.SIGINT)
        out, _ = following.communicate(timeout=30)
    assert (following.returncode, out) == (130, "")


def test_an_export_is_a_file_or_a_stream(client: Client, sdk: Operator, tmp_path: Path) -> None:
    names = sorted(client.enrolled(GROUP).device_id for _ in range(3))
    out = tmp_path / "devices.csv"
    out.write_text("old")
    sdk("export", "devices", "--form", "csv", "--out", str(out))
    assert [row["id"] for row in csv.DictReader(io.StringIO(out.read_text()))] == names
    sdk("export", "reports", "--out", str(tmp_path / "reports.jsonl"))
    assert (tmp_path / "reports.jsonl").read_bytes() == b""
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".dev")]
    assert (
        "Cannot write"
        in sdk("export", "devices", "--out", str(tmp_path / "no" / "file"), code=6).err
    )
    found = subprocess.run(
        [sys.executable, "-m", "sdk", "fleet", "export", "devices"], cwd=ROOT, check=True,
        capture_output=True,
    )  # fmt: skip
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == names


def test_an_export_that_is_refused_leaves_what_was_there(
    sdk: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "devices.csv"
    out.write_text("old")
    monkeypatch.setenv("SLIPWAY_API_KEY", "slipway-api-nobody")
    sdk("export", "devices", "--out", str(out), code=7)
    assert out.read_text() == "old"


def test_releases_are_listed_and_a_revoked_one_is_marked_and_reverted(
    client: Client, world: World, sdk: Operator
) -> None:
    for name in ("1.0.0", "1.1.0"):
        world.fleet.publish(name)
    device = client.enrolled(GROUP)
    confirm(client, world, device, begun(sdk), "1.0.0")
    rollout = begun(sdk, "--stages", "1,100%", "--soak", "1h", release="1.1.0")
    confirm(client, world, device, rollout, "1.1.0")
    own = ("--repo", str(world.fleet.repo), "--keys", str(world.fleet.folder / "keys"))
    said = sdk("revoke", "net", "1.1.0", *own, "--revert", "--json").json
    assert (said["new"], said["reverted"]) == (True, [rollout])
    newest, oldest = sdk("releases", "list", "net", "--json").json
    assert (newest["release"], newest["revoked"]) == ("1.1.0", True)
    assert (oldest["release"], oldest["revoked"]) == ("1.0.0", False)
    assert "revoked" in sdk("releases", "list").out
    assert "is revoked already" in sdk("revoke", "net", "1.1.0", *own).out
    assert "is revoked" in sdk("assign", "net", "1.1.0", "--group", GROUP, code=2).err
    assert sdk("rollouts", "show", rollout, "--json").json["state"] in ("reverting", "reverted")


def test_to_revoke_is_the_word_of_the_models_signer(world: World, sdk: Operator) -> None:
    world.fleet.publish("1.0.0")
    (secret,) = (world.fleet.folder / "keys").glob("model-net*.pem")
    secret.unlink()
    own = ("--repo", str(world.fleet.repo), "--keys", str(secret.parent))
    said = sdk("revoke", "net", "1.0.0", *own, code=2).err
    assert "the word of whoever signs the model" in said
    assert not sdk("releases", "list", "--json").json[0]["revoked"]


def test_a_key_stands_alone_on_stdout_and_may_what_its_role_may(
    sdk: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = sdk("api-keys", "add", "dashboard", "--role", "viewer")
    key = said.out.strip()
    assert key not in said.err
    (own,) = [one for one in sdk("api-keys", "list", "--json").json if one["name"] == "dashboard"]
    assert "dashboard" in sdk("api-keys", "list").out
    with monkeypatch.context() as patch:
        patch.setenv("SLIPWAY_API_KEY", key)
        assert "devices: none yet" in sdk("status").out
        assert "takes the role operator" in sdk("tokens", "add", code=7).err
    assert "is revoked" in sdk("api-keys", "revoke", own["id"]).out
    monkeypatch.setenv("SLIPWAY_API_KEY", key)
    assert "was revoked" in sdk("status", code=7).err


def test_the_audit_log_says_who_did_what(sdk: Operator) -> None:
    for number in range(3):
        sdk("groups", "add", f"line-{number}")
    found = sdk("audit", "--limit", "2", "--json").json
    assert [one["about"]["group"] for one in found] == ["line-2", "line-1"]
    assert "the admin" in sdk("audit").out
    assert len(sdk("audit", "--json").json) == 3


def test_the_key_comes_from_the_file_that_the_server_wrote(
    world: World, sdk: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLIPWAY_API_KEY")
    assert "There is no API key" in sdk("status", code=2).err
    (tmp_path / "default.key").write_text(world.keys["default", "viewer"] + "\n")
    sdk("status")
    assert "cannot be read from" in sdk("status", "--key-file", "nothing", code=2).err
    monkeypatch.setenv("SLIPWAY_API_KEY", "slipway-api-nobody")
    sdk("status", code=7)
    sdk("status", "--key-file", "default.key")


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "nobody named": (["assign", "net", "1"], 2, "--group, --device and --all"),
    "two named": (["assign", "net", "1", "--group", "a", "--all"], 2, "more than one"),
    "no device": (["devices", "show", "abc"], 2, "32 hexadecimal digits"),
    "no such device": (["devices", "show", "0" * 32], 2, "There is no device"),
    "no time": (["assign", "net", "1", "--all", "--soak", "10"], 2, "number and a unit"),
    "no share": (["assign", "net", "1", "--all", "--confirmed", "90"], 2, "ends in %"),
    "no stages": (["assign", "net", "1", "--all", "--stages", "1,,2"], 2, "--stages cannot be ''"),
    "no release": (["assign", "net", "1", "--all"], 2, "1"),
    "too long": (["tokens", "add", "--valid", "7d"], 2, "86400"),
    "no role": (["api-keys", "add", "x", "--role", "king"], 2, "king"),
    "no key": (["devices", "announce", "abc"], 2, "public_key"),
    "nobody there": (["status", "--server", "http://127.0.0.1:1"], 8, "sdk fleet serve"),
    "no address": (["status", "--server", "localhost"], 2, "no server's address"),
    "no rollout": (["watch", "r1"], 2, "There is no rollout"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_exit_code_and_says_what_to_do(sdk: Operator, name: str) -> None:
    arguments, code, words = MISTAKES[name]
    said = sdk(*arguments, code=code)
    assert words in said.err
    assert said.out == ""


def test_numbers_are_read_as_people_write_them() -> None:
    assert [seconds(text, "") for text in ("90s", "10m", "24h", "7d")] == [90, 600, 86400, 604800]
    assert [share(text, "") for text in ("100%", "2.5%", "0.1", "1.0")] == [1.0, 0.025, 0.1, 1.0]
    assert [type(share_or_count(text, "")) for text in ("1", "1.0", "1%")] == [int, float, float]
