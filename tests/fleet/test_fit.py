"""`sdk fleet fit`: reports of a real server, joined with the build that their releases are of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agent.codec import encode, pretty
from agent.errors import LimitError, UsageError
from agent.manifest import parse, serialise
from agent.updates.wire import Reports
from profiles import find
from sdk.cli.app import run
from sdk.project import profile_folders
from tests.fleet.client import Client
from tests.fleet.world import Device, World
from tests.learning.test_cli import written
from tests.learning.worlds import DEVICE, F32, OTHER, program, true_ms

VARIANT = "net/intel-any/best"


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Which database answers makes no difference here."""
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@dataclasses.dataclass
class Told:
    """A fleet that has measured a release, and its operator."""

    client: Client
    world: World
    capsys: pytest.CaptureFixture[str]
    build: str
    """The folder of the build, with the operators of the program."""
    sha256: str

    def fit(self, *more: str, code: int = 0) -> tuple[str, str]:
        found = run(["fleet", "fit", "--profile", "n100", *more])
        said = self.capsys.readouterr()
        assert found == code, said
        return said.out, said.err

    def measured(self, device: Device, ms: Any, *, stable: bool = True, **more: Any) -> None:
        """A device says what it measured."""
        facts = {"measurement": {"latency_ms": {"p50": ms, "stable": stable}, "notes": ["quiet"]}}
        values = {"variant": VARIANT, "manifest_sha256": self.sha256, **more}
        envelope = device.report(
            f"r1-{device.device_id}", "TRIAL", proof={VARIANT: {"facts": facts}}, **values
        )
        self.client.signed(device, "/v1/reports", Reports(reports=(envelope,)))

    def joins(self, print_: Any = DEVICE) -> Device:
        return self.client.enrolled(print=print_)


@pytest.fixture
def told(
    client: Client, world: World, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Told:  # fmt: skip
    for name in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"SLIPWAY_{name}", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIPWAY_SERVER", client.address)
    monkeypatch.setenv("SLIPWAY_API_KEY", world.keys["default", "viewer"])
    build = world.fleet.build()
    manifest = parse((build / "manifest.json").read_bytes())
    made_of = {"recipe": json.loads(pretty(encode(F32))), "program": program(1).digest}
    own = tuple(dataclasses.replace(v, provenance=made_of) for v in manifest.variants)
    (build / "manifest.json").write_bytes(serialise(dataclasses.replace(manifest, variants=own)))
    sha256 = world.fleet.publish("1.0.0", build).manifest_sha256
    return Told(client, world, capsys, str(written(tmp_path, 1, measured=())), sha256)


def test_what_a_fleet_measured_is_learnt_and_who_does_not_count_is_told(
    told: Told, tmp_path: Path
) -> None:
    ms = true_ms(program(1))
    for factor in (0.98, 1.0, 1.02, 1e6):  # one of them lies
        told.measured(told.joins(), str(ms * factor))
    told.measured(strange := told.joins(OTHER), str(ms))
    told.measured(told.joins(), str(ms), stable=False)
    told.measured(told.joins(), str(ms), fingerprint_sha256="0" * 64)
    told.measured(told.joins(), str(ms), manifest_sha256="1" * 64)
    told.measured(told.joins(), str(ms), model="../..", release="a/b?c", manifest_sha256="1" * 64)
    out, err = told.fit("--reports", told.build)
    assert "4 of 9 reports count" in err
    assert f"refused: {strange.device_id} is another device" in err
    for line in (
        "1 report: their median never settled",
        "1 report: the fleet does not know any more",
        "2 reports: no build here knows the operators",
    ):
        assert f"set aside: {line}" in err
    assert "4 reports of 1 model from 4 devices" in out
    (scale,) = find("n100", profile_folders(tmp_path)).scales
    (factors,) = scale.factors.values()
    assert 1.5 < factors["work"] < 2.05
    assert (scale.devices, scale.models, scale.low) == (4, 1, None)


def test_an_export_teaches_the_same_without_the_server(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor in (0.98, 1.0, 1.02):
        told.measured(told.joins(), str(true_ms(program(1)) * factor))
    asked = json.loads(told.fit("--reports", told.build, "--dry-run", "--json")[0])
    assert run(["fleet", "export", "measurements", "--out", "told.jsonl"]) == 0
    monkeypatch.setenv("SLIPWAY_SERVER", "http://127.0.0.1:1")
    told.capsys.readouterr()
    _, err = told.fit("--export", "told.jsonl", "--reports", told.build, code=LimitError.exit_code)
    assert "no build here knows" in err, "nothing was published from here: no manifest is at hand"
    manifest = next((told.world.fleet.repo / "targets/models/net/1.0.0").glob("*.json"))
    from agent.folders import data_folder
    from sdk.catalog import Catalog

    Catalog(data_folder()).keep_release(manifest.read_bytes())
    again = json.loads(
        told.fit("--export", "told.jsonl", "--reports", told.build, "--dry-run", "--json")[0]
    )
    assert again["scales"] == asked["scales"]
    assert again["scales"]


def test_two_devices_are_too_few(told: Told) -> None:
    for _ in range(2):
        told.measured(told.joins(), str(true_ms(program(1))))
    _, err = told.fit("--reports", told.build, code=LimitError.exit_code)
    assert "2 reports: fewer than 3 devices of the fleet measured the variant" in err


def test_an_export_of_something_else_is_refused(told: Told, tmp_path: Path) -> None:
    assert run(["fleet", "export", "devices", "--out", "devices.jsonl"]) == 0
    told.joins()
    assert run(["fleet", "export", "devices", "--out", "devices.jsonl"]) == 0
    _, err = told.fit("--export", "devices.jsonl", code=UsageError.exit_code)
    assert "devices.jsonl, line 1, is no line of an export of measurements" in err


def test_another_tenant_sees_none_of_it(told: Told) -> None:
    told.measured(told.joins(), "3.0")
    for tenant, count in (("default", 1), ("other", 0)):
        got = told.client.admin("GET", "/export/measurements", role="viewer", tenant=tenant)
        assert len(got.content.splitlines()) == count
