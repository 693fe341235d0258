"""A build becomes a release: what is refused, what is uploaded, what a client reads."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LimitError, SlipwayError, StorageError, UsageError, VerificationError
from agent.manifest import parse, serialise
from agent.updates.assignment import place_of
from sdk.release import ceremony, store
from sdk.release.assign import assign, assignment_for, slower_at_most
from sdk.release.keystore import KeyStore
from sdk.release.publish import find, manifest_of, publish
from sdk.release.repository import Repository
from sdk.release.store import FolderStore
from tests.release.reading import Reader, missing
from tests.release.test_ceremonies import copied
from tests.updates.fleet import GROUP, MODEL, PASSPHRASE, Fleet, silent


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Fleet(tmp_path_factory.mktemp("template") / "fleet").folder


@pytest.fixture
def fleet(template: Path, tmp_path: Path) -> Fleet:
    return copied(template, tmp_path / "fleet")


def test_a_release_names_all_that_was_built(fleet: Fleet) -> None:
    build = fleet.build(variants={"best": b"one", "next": b"two"})
    made = fleet.publish("1.0.0", build)
    assert made.release_counter == 1
    told = Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, "1.0.0")
    assert told is not None
    built = json.loads((build / "manifest.json").read_bytes())
    assert {**built, "release": "1.0.0", "release_counter": 1} == told
    assert missing(FolderStore(fleet.repo)) == []
    golden = (build / "golden.safetensors").stat().st_size
    assert made.uploaded_bytes == len(b"one") + len(b"two") + golden


def test_nothing_is_uploaded_twice(fleet: Fleet) -> None:
    same = b"weights" * 1000
    fleet.publish("1.0.0", fleet.build("one", {"best": same}))
    before = blobs(fleet)
    made = fleet.publish("1.1.0", fleet.build("two", {"best": same}))
    assert (made.uploaded_bytes, made.deltas) == (0, 0)
    assert blobs(fleet) == before
    assert made.release_counter == 2


def test_a_release_does_not_change_with_the_build_that_it_was_made_of(fleet: Fleet) -> None:
    build = fleet.build(variants={"best": b"weights"})
    fleet.publish("1.0.0", build)
    (build / "intel-any" / "best@0123abcd" / "model.bin").write_bytes(b"changed")
    assert missing(FolderStore(fleet.repo)) == []


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_bytes(serialise(dataclasses.replace(parse(path.read_bytes()), **changes)))


def summary(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "summary.json"
    told = json.loads(path.read_bytes())
    change(told)
    path.write_text(json.dumps(told))


def one_variant(folder: Path, **changes: Any) -> None:
    manifest = parse((folder / "manifest.json").read_bytes())
    changed = dataclasses.replace(manifest.variants[0], **changes)
    edited(folder, variants=(changed, *manifest.variants[1:]))


def one_file(folder: Path, **changes: Any) -> None:
    (variant, *_) = parse((folder / "manifest.json").read_bytes()).variants
    one_variant(folder, files=(dataclasses.replace(variant.files[0], **changes),))


def weights(folder: Path) -> Path:
    return folder / "intel-any" / "best@0123abcd" / "model.bin"


BREAKS_A_LIMIT = {
    "identifier": f"{MODEL}/intel-any/best",
    "limits": [{"name": "size_mib", "limit": 1.0, "value": 2.0, "verdict": "unmet"}],
}
BAD_BUILDS: dict[str, tuple[Callable[[Path], object], type[SlipwayError], str]] = {
    "an unmet profile": (
        lambda folder: summary(folder, lambda told: told["results"][0].update(verdict="unmet")),
        LimitError, "unmet by intel-any",
    ),
    "an unmet profile beside it": (
        lambda folder: summary(
            folder, lambda told: told["results"].append({"profile": "a17", "verdict": "unmet"})
        ),
        LimitError, "unmet by a17",
    ),
    "an unmet variant on the ladder": (
        lambda folder: summary(
            folder, lambda told: told["results"][0].update(candidates=[BREAKS_A_LIMIT])
        ),
        LimitError, "unmet by net/intel-any/best",
    ),
    "an unproven profile": (
        lambda folder: summary(folder, lambda told: told["results"][0].update(verdict="unproven")),
        LimitError, "--allow-unproven",
    ),
    "a profile without a verdict": (
        lambda folder: summary(folder, lambda told: told.update(results=[])),
        LimitError, "unproven on intel-any",
    ),
    "no variant": (lambda folder: edited(folder, variants=()), LimitError, "every candidate"),
    "no summary": (lambda folder: (folder / "summary.json").unlink(), UsageError, "is no build"),
    "a summary that is none": (
        lambda folder: (folder / "summary.json").write_text("[]"), UsageError, "is no build",
    ),
    "a manifest that is none": (
        lambda folder: (folder / "manifest.json").write_text("{}"), UsageError, "is no build",
    ),
    "another model's summary": (
        lambda folder: summary(folder, lambda told: told.update(model="other")),
        UsageError, "different builds were mixed",
    ),
    "a release already": (
        lambda folder: edited(folder, release="1.0.0", release_counter=1),
        UsageError, "is a release already",
    ),
    "a file that was changed": (
        lambda folder: weights(folder).write_bytes(b"B" * 250), VerificationError, "changed after",
    ),
    "a file that was cut short": (
        lambda folder: weights(folder).write_bytes(b""), VerificationError, "changed after",
    ),
    "a file that is gone": (
        lambda folder: weights(folder).unlink(), UsageError, "model.bin is missing",
    ),
    "golden data that were changed": (
        lambda folder: (folder / "golden.safetensors").write_bytes(b"x"),
        VerificationError, "golden.safetensors has sha256",
    ),
    "golden data that are gone": (
        lambda folder: (folder / "golden.safetensors").unlink(), UsageError, "cannot be read",
    ),
    "a file that leads elsewhere": (
        lambda folder: one_file(folder, path="../../../secret"),
        VerificationError, "not one that a release may hold",
    ),
    "a profile that leads elsewhere": (
        lambda folder: one_variant(folder, profile="../.."),
        (SlipwayError), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind", "says"), BAD_BUILDS.values(), ids=BAD_BUILDS)
def test_a_build_that_is_not_fit_is_refused_and_nothing_is_written(
    spoil: Callable[[Path], object], kind: type[SlipwayError], says: str, fleet: Fleet
) -> None:
    build = fleet.build("build", {"best": b"A" * 250})
    spoil(build)
    before = everything(fleet)
    with pytest.raises(kind) as caught:
        fleet.publish("1.0.0", build)
    assert says in str(caught.value)
    assert caught.value.cause
    assert caught.value.remedy
    assert everything(fleet) == before


def test_leave_covers_what_is_unproven_and_not_what_is_unmet(fleet: Fleet) -> None:
    unproven = fleet.build("unproven", verdict="unproven")
    assert fleet.publish("1.0.0", unproven, allow_unproven=True).release_counter == 1
    unmet = fleet.build("unmet", verdict="unmet")
    with pytest.raises(LimitError, match="unmet by intel-any"):
        fleet.publish("1.1.0", unmet, allow_unproven=True)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "1/2", "a b", "1.0.", "-1", "é", "1*", "1?", "a" * 65, "con", "1@2"]
)
def test_a_release_whose_name_cannot_be_a_path_is_refused(name: str, fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="no name for a release"):
        fleet.publish(name, fleet.build())


@pytest.mark.parametrize("name", ["1.2.0", "2026.11.21+build.7", "v1-rc.1", "1_2"])
def test_ordinary_names_are_taken(name: str, fleet: Fleet) -> None:
    fleet.publish(name, fleet.build())
    assert Reader(fleet.folder / "client", fleet.repo).manifest(MODEL, name) is not None


def test_the_same_release_is_not_published_twice(fleet: Fleet) -> None:
    fleet.publish("1.0.0", fleet.build("one"))
    before = everything(fleet)
    with pytest.raises(UsageError, match="is published already"):
        fleet.publish("1.0.0", fleet.build("two"))
    assert everything(fleet) == before


def test_a_model_without_a_key_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="knows no model other") as caught:
        fleet.publish("1.0.0", fleet.build(model="other"))
    assert "sdk keys add-model other" in caught.value.remedy


def test_a_wrong_passphrase_is_told_before_anything_is_uploaded(fleet: Fleet) -> None:
    before = everything(fleet)
    keys = KeyStore(fleet.folder / "keys", "battery staple")
    with pytest.raises(VerificationError, match="cannot be opened with this passphrase"):
        publish(Repository(FolderStore(fleet.repo), keys), fleet.build(), "1.0.0")
    assert everything(fleet) == before


def test_a_release_that_is_not_there_is_answered_with_those_that_are(fleet: Fleet) -> None:
    fleet.publish("1.0.0", fleet.build("one"))
    fleet.publish("1.1.0", fleet.build("two"))
    with pytest.raises(UsageError, match=r"the newest are 1\.1\.0, 1\.0\.0"):
        find(fleet.repository(), MODEL, "1.2.0")
    assert find(fleet.repository(), MODEL, "1.1.0").release_counter == 2


def test_a_file_that_changes_between_the_check_and_the_upload_is_not_published(
    fleet: Fleet,
) -> None:
    build = fleet.build("build", {"best": b"A" * 250})
    before = everything(fleet)

    def change(line: str) -> None:
        if line.startswith("uploading model.bin"):
            weights(build).write_bytes(b"B" * 250)

    with pytest.raises(VerificationError, match="changed after"):
        fleet.publish("1.0.0", build, tell=change)
    after = everything(fleet)
    assert {path: data for path, data in after.items() if "golden" not in path} == before
    assert not [path for path in after if "/." in path]


def test_two_publications_of_one_folder_wait_for_each_other(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = fleet.build("one"), fleet.build("two")
    monkeypatch.setattr(store, "LOCK_S", 0.2)

    def meanwhile(line: str) -> None:
        if line == "signing":
            with pytest.raises(StorageError, match="is held by another process"):
                fleet.publish("2.0.0", two)

    fleet.publish("1.0.0", one, tell=meanwhile)
    assert fleet.publish("2.0.0", two).release_counter == 2
    assert missing(FolderStore(fleet.repo)) == []


class Unlocked(FolderStore):
    """A folder on a disk that knows no locks."""

    def locked(self) -> Any:
        import contextlib

        return contextlib.nullcontext()


def test_without_a_lock_the_later_one_is_refused_and_the_earlier_one_stays(fleet: Fleet) -> None:
    one, two = fleet.build("one"), fleet.build("two")

    def publish_unlocked(build: Path, release: str, tell: Callable[[str], None] = silent) -> None:
        keys = KeyStore(fleet.folder / "keys", PASSPHRASE)
        publish(Repository(Unlocked(fleet.repo), keys), build, release, tell=tell)

    def meanwhile(line: str) -> None:
        if line == "signing":
            publish_unlocked(two, "2.0.0")

    with pytest.raises(StorageError, match="changed meanwhile"):
        publish_unlocked(one, "1.0.0", meanwhile)
    assert missing(FolderStore(fleet.repo)) == []
    reader = Reader(fleet.folder / "client", fleet.repo)
    assert reader.manifest(MODEL, "1.0.0") is None
    assert reader.manifest(MODEL, "2.0.0") is not None


def test_an_assignment_is_numbered_after_the_one_before(fleet: Fleet) -> None:
    made = fleet.publish("1.0.0")
    ahead = dataclasses.replace(assignment_for(made, group=GROUP), assignment_seq=1 << 52)
    assert assign(fleet.repository(), ahead).assignment_seq == 1 << 52
    later = assign(fleet.repository(), assignment_for(made, group=GROUP))
    assert later.assignment_seq == (1 << 52) + 1


def test_each_model_has_its_own_line_and_one_that_expired_has_none(fleet: Fleet) -> None:
    ceremony.add_model(fleet.repository(), "other")
    place = fleet.repo / place_of(group=GROUP)

    def assigned(model: str, release: str, **options: Any) -> list[str]:
        made = fleet.publish(release, fleet.build(f"{model}-{release}", model=model))
        assign(fleet.repository(), assignment_for(made, group=GROUP, **options))
        payloads = [json.loads(line)["payload"] for line in place.read_bytes().splitlines()]
        return [json.loads(base64.b64decode(one))["release_path"] for one in payloads]

    first, second = f"models/{MODEL}/1.0.0/manifest.json", f"models/{MODEL}/1.1.0/manifest.json"
    assert assigned(MODEL, "1.0.0") == [first]
    assert assigned("other", "1.0.0", valid_days=0) == [first, "models/other/1.0.0/manifest.json"]
    assert assigned(MODEL, "1.1.0") == [second]


def test_what_is_no_file_of_assignments_is_not_written_over(fleet: Fleet) -> None:
    made = fleet.publish("1.0.0")
    place = fleet.repo / place_of(group=GROUP)
    place.parent.mkdir()
    for content in (b"notes\n", b"{}\n", b'{"payload": "e30="}', b"\xff\n"):
        place.write_bytes(content)
        with pytest.raises(StorageError, match="cannot be read"):
            assign(fleet.repository(), assignment_for(made, group=GROUP))
        assert place.read_bytes() == content


def test_a_group_is_not_assigned_more_models_than_a_device_reads(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.release.assign.MOST_MODELS", 1)
    ceremony.add_model(fleet.repository(), "other")
    fleet.release("1.0.0")
    made = fleet.publish("1.0.0", fleet.build("other", model="other"))
    with pytest.raises(UsageError, match="assigns 1 models already"):
        assign(fleet.repository(), assignment_for(made, group=GROUP))
    fleet.release("1.1.0")


BAD_ORDERS: dict[str, Mapping[str, Any]] = {
    "nobody": {},
    "both": {"group": GROUP, "device_id": "0" * 32},
    "a group that is a path": {"group": "../metadata/1"},
    "a group with a slash": {"group": "a/b"},
    "a device that is a path": {"device_id": "../../x"},
    "no name": {"group": ""},
}


@pytest.mark.parametrize("options", BAD_ORDERS.values(), ids=BAD_ORDERS)
def test_an_assignment_for_nobody_is_refused(options: Mapping[str, Any], fleet: Fleet) -> None:
    with pytest.raises(UsageError):
        assignment_for(fleet.publish("1.0.0"), **options)


def test_a_gate_on_slowness_is_a_ratio_of_integers() -> None:
    gate = slower_at_most(1.1)
    assert (gate.quantity, gate.ratio_max_permille, gate.ratio_to) == (
        "latency_us", 1100, "running",
    )  # fmt: skip
    for ratio in (0.0, -1.0, 1e9, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="cannot be held to"):
            slower_at_most(ratio)


def test_deltas_lead_from_the_newest_releases(fleet: Fleet) -> None:
    contents = [bytes([number]) * 20 + b"the same everywhere " * 5000 for number in range(4)]
    for number, content in enumerate(contents):
        fleet.publish(f"1.{number}.0", fleet.build(f"build-{number}", {"best": content}))
    path = f"models/{MODEL}/1.3.0/manifest.json"
    manifest = manifest_of(fleet.repository(), MODEL, path)
    (file,) = manifest.variants[0].files
    bases = [
        manifest_of(fleet.repository(), MODEL, f"models/{MODEL}/1.{number}.0/manifest.json")
        .variants[0].files[0].sha256
        for number in (2, 1)
    ]  # fmt: skip
    assert [delta.base_sha256 for delta in file.deltas] == bases
    assert all(delta.length < 0.03 * file.length for delta in file.deltas)
    assert missing(FolderStore(fleet.repo)) == []


def test_a_recipe_whose_digest_has_changed_gets_a_delta_too(fleet: Fleet) -> None:
    content = b"the same everywhere " * 5000
    fleet.publish("1.0.0", fleet.build("one", {"openvino-int8-aaaaaaaa": content + b"1"}))
    made = fleet.publish("1.1.0", fleet.build("two", {"openvino-int8-bbbbbbbb": content + b"2"}))
    assert made.deltas == 1
    made = fleet.publish("1.2.0", fleet.build("three", {"openvino-f32-cccccccc": content + b"3"}))
    assert made.deltas == 0


def test_a_base_that_is_damaged_makes_no_delta(fleet: Fleet) -> None:
    content = b"the same everywhere " * 5000
    fleet.publish("1.0.0", fleet.build("one", {"best": content + b"1"}))
    old = manifest_of(fleet.repository(), MODEL, f"models/{MODEL}/1.0.0/manifest.json")
    blob = fleet.repo / "blobs/sha256" / old.variants[0].files[0].sha256
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    said: list[str] = []
    made = fleet.publish("1.1.0", fleet.build("two", {"best": content + b"2"}), tell=said.append)
    assert made.deltas == 0
    assert any("missing or damaged" in line for line in said)


def test_revoked_releases_stay_readable_and_are_named(fleet: Fleet) -> None:
    fleet.publish("1.0.0")
    ceremony.revoke(fleet.repository(), MODEL, 1)
    assert fleet.repository().revoked(MODEL).covers(1)


def blobs(fleet: Fleet) -> set[str]:
    return {path.name for path in (fleet.repo / "blobs/sha256").iterdir()}


def everything(fleet: Fleet) -> dict[str, bytes]:
    return {
        str(path.relative_to(fleet.repo)): path.read_bytes()
        for path in sorted(fleet.repo.rglob("*"))
        if path.is_file()
    }
