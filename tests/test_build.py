"""The main job on real toolchains: built, proven, written, cached, resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from agent.manifest import parse
from agent.sessions import load
from agent.tensors import read_tensors
from sdk import api
from sdk.summary import Summary
from tests.projects import write_project
from tests.test_schemas import stored

pytestmark = pytest.mark.toolchain

SDK = [sys.executable, "-P", "-m", "sdk"]
FAST = ["--target", "intel", "--profile", "host"]


@dataclasses.dataclass(frozen=True)
class Built:
    """One build that many tests look at."""

    project: Path
    out: Path
    summary: Summary
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.out / self.summary.model

    @property
    def chosen(self) -> Path:
        return self.folder / "intel-host" / "chosen"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    root = tmp_path_factory.mktemp("build")
    project = write_project(root / "project", model="tiny_cnn")
    environment = {f"SLIPWAY_{name}": str(root / name) for name in ("CACHE", "DATA", "CONFIG")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        summary = api.build(
            project,
            targets=["intel", "mobile"],
            profiles=["intel=host", "mobile=snapdragon-8-gen-3", "mobile=a17-pro"],
            out=root / "out",
            jobs=2,
        )
    yield Built(project, root / "out", summary, environment)
    shutil.rmtree(root)


@pytest.fixture(autouse=True)
def same_folders(
    own_folders: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of the shared build use its cache and its catalog."""
    if "built" in request.fixturenames:
        for name, value in request.getfixturevalue("built").environment.items():
            monkeypatch.setenv(name, value)


def sdk(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SDK, *arguments], capture_output=True, text=True, check=False, **more)


def test_the_host_is_proven_and_phones_are_not(built: Built) -> None:
    verdicts = {result.profile: result.verdict for result in built.summary.results}
    assert verdicts == {
        "intel-host": "met",
        "snapdragon-8-gen-3": "unproven",
        "a17-pro": "unproven",
    }


def test_every_candidate_is_there_with_its_figure_or_its_reason(built: Built) -> None:
    for result in built.summary.results:
        toolchains = {candidate.toolchain for candidate in result.candidates}
        if result.target == "intel":
            assert toolchains == {"openvino", "onnxruntime", "executorch"}
        for candidate in result.candidates:
            if candidate.status != "built":
                assert candidate.reason
                continue
            assert candidate.size_bytes
            if result.profile == "intel-host":
                assert candidate.latency_ms is not None
                assert candidate.latency_ms.evidence == "device"
                assert candidate.memory_increment_bytes is not None
            else:
                assert candidate.latency_ms is None
    failed = [c for r in built.summary.results for c in r.candidates if c.status == "failed"]
    assert failed == []


def test_the_chosen_one_is_not_slower_than_any_other_within_the_limits(built: Built) -> None:
    host = built.summary.results[0]
    chosen = next(c for c in host.candidates if c.role == "chosen")
    assert chosen.latency_ms is not None
    for other in host.candidates:
        if other.latency_ms and all(limit.verdict == "met" for limit in other.limits):
            assert chosen.latency_ms.low <= other.latency_ms.high


def test_the_files_fit_their_schemas(built: Built) -> None:
    for name in ("manifest", "summary"):
        document = json.loads((built.folder / f"{name}.json").read_bytes())
        jsonschema.validate(document, stored(f"{name}.schema.json"))
    variant = json.loads((built.chosen / "variant.json").read_bytes())
    jsonschema.validate(variant, stored("variant.schema.json"))


def test_the_manifest_names_every_file_by_its_hash(built: Built) -> None:
    from agent.files import sha256_of

    manifest = parse((built.folder / "manifest.json").read_bytes())
    assert manifest.release is None
    assert sha256_of(built.folder / "golden.safetensors") == manifest.golden.sha256
    assert manifest.evaluation is not None
    assert sha256_of(built.folder / "evaluation.safetensors") == manifest.evaluation.sha256
    by_id = {path.name.split("@")[0]: path for path in built.folder.glob("*/*@*")}
    assert len(manifest.variants) == len(list(built.folder.glob("*/*@*")))
    for entry in manifest.variants:
        folder = next(
            path for path in built.folder.glob(f"{entry.profile}/*@*")
            if path.name.startswith(entry.id.rsplit("/", 1)[-1])
        )  # fmt: skip
        for file in entry.files:
            assert sha256_of(folder / file.path) == file.sha256
        assert entry.floors
        assert entry.drop_max_ppm == 50_000
        assert entry.selection == ("rank" if entry.profile == "intel-host" else "measure")
    assert by_id


def test_labels_stay_at_home_unless_they_may_leave(built: Built) -> None:
    keys = read_tensors(built.folder / "evaluation.safetensors")
    assert keys
    assert not any(key.endswith("/label") for key in keys)


def test_the_golden_data_covers_the_bounds_of_the_dim(built: Built) -> None:
    tensors = read_tensors(built.folder / "golden.safetensors")
    sizes = {array.shape[0] for key, array in tensors.items() if "/in/" in key}
    assert {1, 4} <= sizes


def test_the_chosen_variant_runs_alone(built: Built, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(built.chosen.resolve(), copy)
    with load(copy) as session:
        outputs = session.run({"image": np.zeros((2, 3, 8, 8), np.float32)})
    assert next(iter(outputs.values())).shape[0] == 2


def test_verify_bench_and_compare_work_on_what_was_built(built: Built) -> None:
    assert api.verify(built.chosen).samples >= 3
    assert api.bench(built.chosen, seconds=0.3).latency_ms.p50 > 0
    other = next(p for p in built.folder.glob("intel-host/*@*") if p != built.chosen.resolve())
    assert api.compare(built.chosen, other, seconds=0.3).ratio.value > 0


def test_verify_finds_a_flipped_byte(built: Built, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(built.folder, copy, symlinks=True)
    variant = (copy / "intel-host" / "chosen").resolve()
    record = json.loads((variant / "variant.json").read_bytes())
    file = variant / record["files"][0]["path"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    found = sdk("verify", str(copy / "intel-host" / "chosen"))
    assert found.returncode == 7
    assert "sha256" in found.stderr


def test_a_rebuild_with_nothing_changed_is_fast_and_imports_no_vendor(built: Built) -> None:
    code = (
        "import sys, time; started = time.monotonic(); from sdk.cli.app import run;"
        "code = run(sys.argv[1:]); took = time.monotonic() - started;"
        "heavy = {'torch', 'openvino', 'onnxruntime', 'executorch', 'nncf', 'onnx'};"
        "print('HEAVY', sorted(heavy & set(sys.modules)), 'CODE', code, file=sys.stderr)"
    )
    arguments = ["build", str(built.project), *FAST, "--target", "mobile", "--out", str(built.out)]
    profiles = ["--profile", "mobile=snapdragon-8-gen-3", "--profile", "mobile=a17-pro"]
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments, *profiles, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HEAVY [] CODE 0" in found.stderr
    again = json.loads(found.stdout)
    assert again["results"] == json.loads((built.folder / "summary.json").read_bytes())["results"]
    assert "lowering" not in found.stderr


def test_history_tells_what_was_built(built: Built) -> None:
    builds = api.history("tiny")
    assert {build.profile for build in builds} >= {"intel-host", "a17-pro"}
    found = sdk("history", "--json", "--model", "tiny")
    assert json.loads(found.stdout)[0]["program_digest"] == built.summary.program_digest


def test_the_report_is_one_page_that_asks_for_nothing(built: Built) -> None:
    page = (built.folder / "report.html").read_text()
    assert "intel-host" in page
    for outside in ("http://", "https://", "<script", "@import", "src="):
        assert outside not in page


def test_a_changed_line_in_a_helper_rebuilds(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", model="helper_module")
    out = str(tmp_path / "out")
    arguments = ["build", str(project), *FAST, "--out", out, "--json"]
    first = json.loads(sdk(*arguments).stdout)
    helper = project / "helpers.py"
    helper.write_text(helper.read_text().replace("SCALE = 2.0", "SCALE = 3.0"))
    second = json.loads(sdk(*arguments).stdout)
    assert first["program_digest"] != second["program_digest"]
    assert len(list((tmp_path / "out" / "tiny" / "intel-host").glob("*@*"))) <= 5


def test_limits_that_nothing_can_meet_say_so_with_code_3(built: Built, tmp_path: Path) -> None:
    found = sdk(
        "build", str(built.project), *FAST, "--out", str(tmp_path), "--limit", "size_mib=0.0001"
    )
    assert found.returncode == 3
    assert "size_mib" in found.stdout
    manifest = parse((tmp_path / "tiny" / "manifest.json").read_bytes())
    assert manifest.variants == ()


def test_two_builds_into_one_folder_do_not_mix(built: Built, tmp_path: Path) -> None:
    from sdk.output import Output

    with Output.locked(tmp_path, "tiny"):
        found = sdk("build", str(built.project), *FAST, "--out", str(tmp_path))
    assert found.returncode == 6
    assert str(os.getpid()) in found.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_output_is_refused_at_once(built: Built, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert sdk("build", str(built.project), *FAST, "--out", str(tmp_path / "x")).returncode == 6


def test_an_output_that_is_a_file_is_refused_at_once(built: Built, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = sdk("build", str(built.project), *FAST, "--out", str(tmp_path / "file"))
    assert found.returncode == 6
    assert "Cannot write" in found.stderr


@pytest.mark.parametrize("moment", ["capturing", "lowering", "measuring"])
def test_ctrl_c_at_any_step_leaves_nothing_and_the_next_run_resumes(
    moment: str, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project", model="tiny_cnn")
    arguments = ["build", str(project), *FAST, "--out", str(tmp_path / "out")]
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen([*SDK, *arguments], stdout=stream, stderr=stream)
        deadline = time.monotonic() + 300
        while moment not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    children = subprocess.run(
        ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert children.stdout == ""
    assert not (tmp_path / "out" / "tiny" / "manifest.json").exists()
    again = sdk(*arguments)
    assert again.returncode == 0, again.stderr
    if moment != "capturing":
        assert "cached: capture" in again.stderr
