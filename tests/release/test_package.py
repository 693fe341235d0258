"""A release as one file: what is in it, who takes it, and what is left when it cannot be made."""

from __future__ import annotations

import dataclasses
import datetime as dt
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.codec import encode
from agent.errors import StorageError, UsageError, VerificationError
from agent.manifest import parse, serialise
from agent.updates.assignment import Assignment, moment, opened, place_of
from agent.updates.package import PackageSource
from agent.updates.source import read_short
from agent.updates.trust import Trust
from sdk.release import ceremony
from sdk.release.assign import assign, assignment_for, slower_at_most
from sdk.release.package import export
from sdk.release.publish import manifest_of
from sdk.release.repository import Repository
from tests.release.test_ceremonies import copied
from tests.updates.fleet import GROUP, MODEL, Fleet, utc

MIB = 1 << 20


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Assignment]:
    """Two releases and another model; the second release, which has two profiles, is assigned."""
    fleet = Fleet(tmp_path_factory.mktemp("template") / "fleet")
    ceremony.add_model(fleet.repository(), "other")
    fleet.publish("1.0.0", fleet.build("other", {"best": b"x" * 5000}, model="other"))
    fleet.publish("1.0.0", fleet.build("one", {"best": b"a" * 5000 + b"1"}))
    build = fleet.build("two", {"best": b"a" * 5000 + b"2", "next": b"b" * MIB})
    manifest = parse((build / "manifest.json").read_bytes())
    best, other = manifest.variants
    (build / "arm-any").mkdir()
    (build / "intel-any" / "next@0123abcd").rename(build / "arm-any" / "next@0123abcd")
    moved = dataclasses.replace(other, profile="arm-any", id=f"{MODEL}/arm-any/next")
    changed = dataclasses.replace(manifest, variants=(best, moved))
    (build / "manifest.json").write_bytes(serialise(changed))
    (build / "summary.json").write_bytes(
        b'{"schema": 1, "model": "net", "results": [{"profile": "intel-any", "verdict": "met"},'
        b'{"profile": "arm-any", "verdict": "met"}]}'
    )
    made = fleet.publish("1.1.0", build)
    assert made.deltas == 1
    return fleet.folder, assignment_for(made, group=GROUP, gates=(slower_at_most(1.2),))


@pytest.fixture
def fleet(template: tuple[Path, Assignment], tmp_path: Path) -> Fleet:
    return copied(template[0], tmp_path / "fleet")


@pytest.fixture
def assignment(template: tuple[Path, Assignment]) -> Assignment:
    return template[1]


def test_a_package_holds_what_is_needed_and_no_more(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    ceremony.rotate(fleet.repository(), "root-1")
    repository = fleet.repository()
    for profiles in ((), ("intel-any",), ("arm-any",), ("arm-any", "intel-any")):
        out = tmp_path / "package"
        size = export(repository, assignment, out, profiles)
        assert size == out.stat().st_size
        manifest = manifest_of(repository, MODEL, assignment.release_path)
        version = {name: repository.role(name).signed.version for name in ROLES}
        folder = assignment.release_path.rpartition("/")[0]
        wanted = {
            "assignment.json",
            "metadata/1.root.json",
            "metadata/2.root.json",
            "metadata/timestamp.json",
            *(f"metadata/{number}.{name}.json" for name, number in version.items()),
            f"targets/{folder}/{assignment.manifest_sha256}.manifest.json",
            f"blobs/sha256/{manifest.golden.sha256}",
        }
        for variant in manifest.variants:
            if not profiles or variant.profile in profiles:
                wanted |= {f"blobs/sha256/{file.sha256}" for file in variant.files}
        with zipfile.ZipFile(out) as package:
            assert set(package.namelist()) == wanted
            assert package.testzip() is None
            assert {member.compress_type for member in package.infolist()} == {0}


ROLES = ("snapshot", "targets", f"model-{MODEL}")


def test_a_device_trusts_it_without_a_network(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    out = tmp_path / "package"
    export(fleet.repository(), assignment, out)
    root = (fleet.repo / "metadata/1.root.json").read_bytes()
    with PackageSource(out) as source:
        # Days later: timestamp and snapshot count by when the assignment was issued.
        view = Trust(tmp_path / "trust", root).look_into(source, moment(assignment.issued), utc(30))
        content = read_short(source, "assignment.json", 1 << 16)
        found = opened(content, view.assignment_keys(offline=True))
        assert {**encode(found), **encode(assignment)} == encode(found)
        assert found.gates == (slower_at_most(1.2),)
        manifest = parse(view.manifest(found.release_path, found.manifest_sha256))
        for variant in manifest.variants:
            for file in variant.files:
                with source.open(f"blobs/sha256/{file.sha256}") as stream:
                    assert sum(map(len, stream.chunks)) == file.length


def test_what_is_signed_for_later_says_from_when_to_when(assignment: Assignment) -> None:
    issued, expires = moment(assignment.issued), moment(assignment.expires)
    assert abs((utc() - issued).total_seconds()) < 60
    assert expires - issued == dt.timedelta(days=365)
    assert all(isinstance(gate.ratio_max_permille, int) for gate in assignment.gates)


def test_the_same_package_has_the_same_bytes(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export(fleet.repository(), assignment, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_profile_that_the_release_lacks_is_answered(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no variant for a17-pro") as caught:
        export(fleet.repository(), assignment, tmp_path / "package", ["a17-pro", "arm-any"])
    assert "arm-any, intel-any" in caught.value.remedy
    assert list(tmp_path.glob("*package*")) == []


@pytest.mark.parametrize("spoil", ["gone", "changed", "longer", "empty"])
def test_a_damaged_repository_makes_no_package(
    spoil: str, fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    manifest = manifest_of(fleet.repository(), MODEL, assignment.release_path)
    blob = fleet.repo / "blobs/sha256" / manifest.variants[0].files[0].sha256
    blob.chmod(0o644)
    content = blob.read_bytes()
    if spoil == "gone":
        blob.unlink()
    else:
        blob.write_bytes(
            {"changed": b"z" + content[1:], "longer": content + b"x", "empty": b""}[spoil]
        )
    with pytest.raises(VerificationError, match="missing in the repository, or was changed"):
        export(fleet.repository(), assignment, tmp_path / "package")
    assert list(tmp_path.glob("*package*")) == []


def test_a_repository_that_is_not_fresh_makes_no_package(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    later = (utc() + dt.timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with pytest.raises(UsageError, match="timestamp metadata expired") as caught:
        export(
            fleet.repository(), dataclasses.replace(assignment, issued=later), tmp_path / "package"
        )
    assert "sdk repo refresh" in caught.value.remedy


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """No file may grow beyond so many bytes, as far as the system's calls tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing_and_keeps_the_old_package(
    fleet: Fleet, assignment: Assignment, tmp_path: Path, full_disk: Any
) -> None:
    repository, out = fleet.repository(), tmp_path / "packages" / "package"
    for there in (False, True):
        if there:
            out.write_bytes(b"the old one")
        for size in (0, 100, 5000, 100_000, MIB):
            full_disk(size)
            try:
                with pytest.raises(StorageError):
                    export(repository, assignment, out)
            finally:
                full_disk(resource.RLIM_INFINITY)
            assert [path.name for path in out.parent.iterdir()] == ["package"] * there
    assert out.read_bytes() == b"the old one"
    assert export(repository, assignment, out) > MIB


def test_an_assignment_in_a_package_is_the_one_in_the_repository(
    fleet: Fleet, assignment: Assignment, tmp_path: Path
) -> None:
    repository: Repository = fleet.repository()
    found = assign(repository, assignment)
    export(repository, found, tmp_path / "package")
    with zipfile.ZipFile(tmp_path / "package") as package:
        there = fleet.repo / place_of(group=GROUP)
        assert [package.read("assignment.json")] == there.read_bytes().splitlines()
