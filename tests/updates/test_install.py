"""A release on its way to a device by hand: packages, the way back, and who may do what when."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, Idle, Preflight
from agent.errors import UsageError, VerificationError
from agent.manifest import Gate
from agent.updates.assignment import Assignment
from agent.updates.home import Home
from agent.updates.install import confirm_now, go_back, install, take_back
from agent.updates.proof import Asked, Proof
from agent.updates.run import once
from sdk.release import ceremony
from sdk.release.assign import assignment_for
from sdk.release.package import export
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import MODEL, Fleet, passing, silent


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fresh_fleet(tmp_path)


@pytest.fixture
def offline(fleet: Fleet) -> Config:
    return fleet.device(repository=None)


def runs(home: Home) -> str | None:
    slots = home.slots(MODEL)
    slot = slots.read(slots.current())
    return slot and slot.manifest.release


def test_a_release_is_installed_and_confirmed(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    with Home(fleet.device()) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "TRIAL", action.reason
        done = confirm_now(home, MODEL)
        assert done.state == "CONFIRMED"
        assert runs(home) == "1.0.0"
        assert once(home, silent, passing) is None


def test_a_package_is_installed(fleet: Fleet, offline: Config) -> None:
    package = fleet.package(fleet.publish("1.0.0"))
    with Home(offline) as home:
        action = install(home, package, silent, passing)
        assert action.state == "TRIAL", action.reason
        assert runs(home) == "1.0.0"


def test_a_package_replaces_what_waits_and_not_what_is_on_trial(
    fleet: Fleet, offline: Config
) -> None:
    one, two = (fleet.package(fleet.publish(release)) for release in ("1.0.0", "2.0.0"))
    with Home(offline) as home:
        install(home, one, silent, passing)
        with pytest.raises(UsageError, match="is in TRIAL"):
            install(home, two, silent, passing)
        confirm_now(home, MODEL)
        install(home, two, silent, passing)
        take_back(home, MODEL, "worse")
        assert runs(home) == "1.0.0"
        with pytest.raises(VerificationError, match="was seen already"):
            install(home, two, silent, passing)


def test_a_package_that_was_cut_off_goes_on(fleet: Fleet, offline: Config) -> None:
    class Killed(BaseException):
        pass

    def killed(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        raise Killed

    package = fleet.package(fleet.publish("1.0.0"))
    with Home(offline) as home, pytest.raises(Killed):
        install(home, package, silent, killed)
    with Home(offline) as home:
        action = install(home, package, silent, passing)
        assert action.state == "TRIAL", action.reason


def test_a_package_for_another_machine_is_refused(fleet: Fleet, offline: Config) -> None:
    published = fleet.publish("1.0.0")
    package = fleet.package(published, device_id="0" * 32)
    with Home(offline) as home:
        with pytest.raises(VerificationError, match=r"The assignment is for '?0000"):
            install(home, package, silent, passing)
        assert home.journal.unfinished() is None
        assert runs(home) is None


def test_what_does_not_pass_leaves_what_runs(fleet: Fleet, offline: Config) -> None:
    bad = fleet.build("bad", {"best": b"WRONG", "base": b"SLOW"})
    one, two = fleet.package(fleet.publish("1.0.0")), fleet.package(fleet.publish("2.0.0", bad))
    with Home(offline) as home:
        install(home, one, silent, passing)
        confirm_now(home, MODEL)
        action = install(home, two, silent, passing)
        assert action.state == "FAILED"
        assert "best: it is wrong" in action.reason
        assert "base: it is slow" in action.reason
        assert runs(home) == "1.0.0"


CHOICES = [
    ("the first that passes", "rank", {"a": b"WRONG", "b": b"p50=9 ", "c": b"p50=1 "}, "b"),
    ("the fastest", "measure", {"a": b"p50=5 ", "b": b"SLOW p50=1 ", "c": b"p50=3 "}, "c"),
    (
        "the fastest of three",
        "measure",
        {"a": b"p50=5 ", "b": b"p50=4 ", "c": b"p50=3 ", "d": b"p50=1 "},
        "c",
    ),
]


@pytest.mark.parametrize(
    ("selection", "variants", "chosen"), [case[1:] for case in CHOICES], ids=[c[0] for c in CHOICES]
)
def test_which_variant_is_activated(
    fleet: Fleet, offline: Config, selection: str, variants: dict[str, bytes], chosen: str
) -> None:
    build = fleet.build("ladder", variants, selection=selection)
    with Home(offline) as home:
        action = install(home, fleet.package(fleet.publish("1.0.0", build)), silent, passing)
        assert action.variant == f"net/intel-any/{chosen}"


def test_when_the_time_is_up_what_has_passed_is_taken(fleet: Fleet, offline: Config) -> None:
    variants = {"a": b"p50=5 ", "b": b"p50=1 "}
    package = fleet.package(
        fleet.publish("1.0.0", fleet.build("ladder", variants, selection="measure"))
    )
    lines: list[str] = []

    def slow(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        time.sleep(0.06)
        return passing(home, asked, log=log, time_limit_s=time_limit_s)

    with Home(dataclasses.replace(offline, preflight=Preflight(seconds=0.05))) as home:
        action = install(home, package, lines.append, slow)
        assert action.variant == "net/intel-any/a"
        assert any("no time is left to try net/intel-any/b" in line for line in lines)


def test_a_package_takes_the_place_of_its_own_models_update_alone(
    fleet: Fleet, offline: Config, tmp_path: Path
) -> None:
    ceremony.add_model(fleet.repository(), "other")
    published = [fleet.publish(name) for name in ("1.0.0", "2.0.0")]
    published.append(fleet.publish("1.0.0", fleet.build("other", model="other")))
    first, second, other = map(fleet.package, published)
    waiting = dataclasses.replace(offline, idle=Idle(hook=str(tmp_path / "none")))
    with Home(waiting) as home:
        action = install(home, first, silent, passing)
        assert action.state == "STAGED"
        with pytest.raises(UsageError, match="net is in STAGED"):
            install(home, other, silent, passing)
        assert home.journal.unfinished() == home.journal.action(action.id)
        newer = install(home, second, silent, passing)
        assert newer.release == "2.0.0"
        replaced = home.journal.action(action.id)
        assert replaced is not None
        assert "was installed instead" in replaced.reason


def test_a_variant_that_hangs_leaves_time_for_the_next(fleet: Fleet, offline: Config) -> None:
    variants = {name: name.encode() * 9 for name in ("a", "b", "c")}
    package = fleet.package(
        fleet.publish("1.0.0", fleet.build("hanging", variants, selection="measure"))
    )
    limits: list[float] = []

    def hangs(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        limits.append(round(time_limit_s))
        return passing(home, asked, log=log, time_limit_s=time_limit_s)

    with Home(dataclasses.replace(offline, preflight=Preflight(seconds=800.0))) as home:
        install(home, package, silent, hangs)
    assert limits == [400, 400, 800], "of what is left, and none of these took any"


def test_baselines_are_fetched_for_gates_of_the_assignment(fleet: Fleet, offline: Config) -> None:
    variants = {f"v{rank}": f"weights {rank}".encode() for rank in range(4)}
    published = fleet.publish("1.0.0", fleet.build("ladder", variants))
    gate = Gate(quantity="latency_us", ratio_max_permille=900, ratio_to="baseline")
    assignment: Assignment = dataclasses.replace(
        fleet._later(assignment_for(published, group="line-3")), gates=(gate,)
    )
    package = fleet.folder / "gated.zip"
    export(fleet.repository(), assignment, package)
    asked_for: list[Asked] = []

    def seen(home: Home, asked: Asked, *, log: Path, time_limit_s: float) -> Proof:
        asked_for.append(asked)
        assert asked.baseline is not None
        assert (asked.baseline.folder / "model.bin").read_bytes() == b"weights 2"
        return passing(home, asked, log=log, time_limit_s=time_limit_s)

    with Home(offline) as home:
        install(home, package, silent, seen)
    assert asked_for[0].gates == (gate,)


def test_the_way_back_and_forth(fleet: Fleet, offline: Config) -> None:
    packages = [fleet.package(fleet.publish(release)) for release in ("1.0.0", "2.0.0")]
    with Home(offline) as home:
        with pytest.raises(UsageError, match="no release of net to go back to"):
            go_back(home, MODEL, "r", silent, passing)
        for package in packages:
            install(home, package, silent, passing)
            confirm_now(home, MODEL)
        assert go_back(home, MODEL, "worse", silent, passing).state == "TRIAL"
        assert runs(home) == "1.0.0"
        with pytest.raises(UsageError, match="other is not on trial"):
            confirm_now(home, "other")
        confirm_now(home, MODEL)
        with pytest.raises(UsageError, match="net is not on trial: nothing is under way"):
            take_back(home, MODEL, "late")
        go_back(home, MODEL, "after all", silent, passing)
        confirm_now(home, MODEL)
        assert runs(home) == "2.0.0"


def test_a_trial_is_taken_back_by_the_same_verb(fleet: Fleet, offline: Config) -> None:
    packages = [fleet.package(fleet.publish(release)) for release in ("1.0.0", "2.0.0")]
    with Home(offline) as home:
        for package in packages:
            install(home, package, silent, passing)
            if package is packages[0]:
                confirm_now(home, MODEL)
        assert go_back(home, MODEL, "worse", silent, passing).state == "ROLLED_BACK"
        assert runs(home) == "1.0.0"
        with pytest.raises(UsageError, match=r"2\.0\.0 was refused or taken back here \(worse\)"):
            go_back(home, MODEL, "again", silent, passing)


def test_names_that_are_no_names(offline: Config) -> None:
    with Home(offline) as home, pytest.raises(VerificationError):
        go_back(home, "../../etc", "r", silent, passing)


def test_a_damaged_blob_is_fetched_anew(fleet: Fleet) -> None:
    config = fleet.device()
    fleet.release("1.0.0", fleet.build("b", {"best": b"weights"}))
    with Home(config) as home:
        once(home, silent, passing)
        confirm_now(home, MODEL)
        for blob in home.blobs.folder.iterdir():
            blob.chmod(0o644)
            blob.write_bytes(b"\0" * blob.stat().st_size)
        fleet.release("1.0.1", fleet.build("c", {"best": b"weights"}))
        lines: list[str] = []
        action = once(home, lines.append, passing)
        assert action is not None
        assert action.state == "TRIAL", action.reason
        assert sum("was damaged here" in line for line in lines) == 2


def fetched(lines: list[str]) -> int:
    """The bytes that were fetched, by what was told."""
    return sum(int(line.split("fetching ")[1].split()[0]) for line in lines if "fetching " in line)


def weights(head: bytes) -> bytes:
    random = np.random.default_rng(0)
    return random.standard_normal(50_000).astype(np.float32).tobytes() + head


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_delta_is_used_where_its_base_is_here(fleet: Fleet, spoilt: bool) -> None:
    first, second = weights(b"head one"), weights(b"head two")
    with Home(fleet.device()) as home:
        fleet.release("1.0.0", fleet.build("one", {"best": first}))
        lines: list[str] = []
        once(home, lines.append, passing)
        confirm_now(home, MODEL)
        assert fetched(lines) > len(first)
        published = fleet.publish("2.0.0", fleet.build("two", {"best": second}))
        assert published.deltas == 1
        fleet.assign(published)
        if spoilt:
            whole = hashlib.sha256(second).hexdigest()
            here = {path.name for path in home.blobs.folder.iterdir()}
            for blob in (fleet.repo / "blobs" / "sha256").iterdir():
                if blob.name not in {whole, *here}:
                    blob.write_bytes(b"\0" * blob.stat().st_size)
        lines.clear()
        action = once(home, lines.append, passing)
        assert action is not None
        assert action.state == "TRIAL", action.reason
        slots = home.slots(MODEL)
        slot = slots.read(slots.current())
        assert slot is not None
        assert (slot.folder / "model.bin").read_bytes() == second
        if spoilt:
            assert fetched(lines) > len(second)
            assert any("The whole file is fetched" in line for line in lines)
        else:
            assert fetched(lines) < len(second) / 20


def test_an_agent_older_than_a_release_requires_refuses_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = fleet.build("new")
    manifest = json.loads((build / "manifest.json").read_bytes())
    manifest["requires"] = ["holographic-weights"]
    (build / "manifest.json").write_text(json.dumps(manifest))
    with monkeypatch.context() as newer:
        newer.setattr("agent.manifest.KNOWN_REQUIREMENTS", frozenset({"holographic-weights"}))
        fleet.release("1.0.0", build)
    with Home(fleet.device()) as home:
        action = once(home, silent, passing)
        assert action is not None
        assert action.state == "REJECTED"
        assert "requires holographic-weights" in action.reason
        assert runs(home) is None
