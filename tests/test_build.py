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
    said: list[str]

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
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        summary = api.build(
            project,
            targets=["intel", "mobile"],
            profiles=["intel=host", "mobile=snapdragon-8-gen-3", "mobile=a17-pro"],
            out=root / "out",
            jobs=2,
            on_event=lambda event: said.append(f"{event.kind}: {event.message}"),
        )
    yield Built(project, root / "out", summary, environment, said)
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


def test_the_model_is_converted_once_for_all_recipes_of_a_toolchain(built: Built) -> None:
    recipes = [c for r in built.summary.results for c in r.candidates if c.status == "built"]
    for toolchain in ("openvino", "onnxruntime"):
        assert sum(c.toolchain == toolchain for c in recipes) > 1
        assert built.said.count(f"start: converting the model for {toolchain}") == 1


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


def test_a_catalog_that_cannot_be_written_is_a_warning_after_the_result(
    built: Built, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    arguments = [
        "build",
        str(built.project),
        "-t",
        "mobile",
        "-p",
        "a17-pro",
        "--out",
        str(tmp_path),
    ]
    found = sdk(*arguments, env={**os.environ, "SLIPWAY_DATA": str(tmp_path / "file")})
    assert found.returncode == 0
    assert "mobile on a17-pro: not proven yet" in found.stdout
    assert (tmp_path / "tiny" / "summary.json").is_file()
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("warning: this build is not in the history: The catalog")
    assert "SLIPWAY_DATA" in last


def test_the_report_is_one_page_that_asks_for_nothing(built: Built) -> None:
    page = (built.folder / "report.html").read_text()
    assert "intel-host" in page
    for outside in ("http://", "https://", "@import", "src=", "url("):
        assert outside not in page
    assert page.count("<script>") == 1
    for figure in ("Latency against accuracy drop", "Latency distributions", "Peak memory"):
        assert figure in page


def test_the_report_says_what_a_phone_would_have_to_prove(built: Built) -> None:
    found = sdk("report", str(built.folder))
    assert found.returncode == 0
    assert "meets every limit" in found.stdout
    assert "unproven" in found.stdout
    assert "Proof takes" in found.stdout


def test_the_summary_tells_why_and_under_what_each_was_measured(built: Built) -> None:
    host = built.summary.results[0]
    assert host.match
    assert host.limits
    for candidate in host.candidates:
        assert candidate.reason
        assert candidate.conditions is not None
        assert candidate.latency_ms is not None
        assert candidate.latency_ms.windows
        assert candidate.latency_ms.bounds is not None
        spread = candidate.latency_ms.spread
        assert spread is not None
        assert list(spread) == sorted(spread)
        assert (candidate.ratio_to_baseline is None) == (candidate.identifier == host.baseline)


def test_the_time_of_each_operator_is_told_where_the_runtime_knows_it(built: Built) -> None:
    host = built.summary.results[0]
    shown = {host.selected, host.baseline}
    for candidate in host.candidates:
        if candidate.identifier not in shown or candidate.toolchain == "executorch":
            assert candidate.operators is None
            continue
        assert candidate.operators
        assert candidate.notes == () or "operators" not in " ".join(candidate.notes)
        assert sum(operator.share for operator in candidate.operators) == pytest.approx(1, abs=0.01)
        assert all(operator.engine and operator.type for operator in candidate.operators)
    for phone in built.summary.results[1:]:
        assert all(candidate.operators is None for candidate in phone.candidates)


def test_a_build_compared_with_itself_shows_nothing_but_noise(built: Built) -> None:
    found = api.compare_builds(built.folder, built.folder / "summary.json")
    assert found.is_same_model
    assert not found.machine
    assert not found.tools
    answers = {
        delta.answer
        for profile in found.profiles
        for candidate in profile.candidates
        for delta in candidate.deltas
    }
    assert answers == {"within noise", "same"}


def test_limits_that_nothing_can_meet_say_so_with_code_3(built: Built, tmp_path: Path) -> None:
    found = sdk(
        "build", str(built.project), *FAST, "--out", str(tmp_path), "--limit", "size_mib=0.0001"
    )
    assert found.returncode == 3
    assert "size_mib" in found.stdout
    manifest = parse((tmp_path / "tiny" / "manifest.json").read_bytes())
    assert manifest.variants == ()


@pytest.mark.long
def test_what_cannot_fit_is_not_built_and_no_prune_tells_what_that_saved(
    built: Built, tmp_path: Path
) -> None:
    arguments = ("build", str(built.project), *FAST, "--limit", "size_mib=0.0001", "--json")
    pruned = sdk(*arguments, "--out", str(tmp_path / "pruned"))
    assert pruned.returncode == 3
    assert "lowering" not in pruned.stderr
    (found,) = json.loads(pruned.stdout)["results"]
    assert {candidate["status"] for candidate in found["candidates"]} <= {"pruned", "refused"}
    dropped = [c for c in found["candidates"] if c["status"] == "pruned"]
    assert dropped
    for candidate in dropped:
        assert candidate["step"] == "estimate"
        assert candidate["reason"].startswith("size_mib would be at least")
        assert candidate["size_bytes"] is None
        (limit,) = candidate["limits"]
        assert (limit["name"], limit["verdict"]) == ("size_mib", "unmet")
        assert limit["evidence"] == "estimate"
    assert found["notes"] == []
    kept = sdk(*arguments, "--no-prune", "--out", str(tmp_path / "kept"))
    assert kept.returncode == 3
    (found,) = json.loads(kept.stdout)["results"]
    assert "pruned" not in {candidate["status"] for candidate in found["candidates"]}
    (note,) = found["notes"]
    assert f"would have dropped {len(dropped)} candidates; none of them turned out" in note
    said = sdk(*arguments[:-1], "--no-prune", "--out", str(tmp_path / "kept"))
    assert note in said.stdout


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


def onnx_project(folder: Path) -> Path:
    """An ONNX-only project: quick to build, and without torch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((16, 4)).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, str(folder / "net.onnx"))
    (folder / "data.py").write_text(
        "import numpy as np\n\n\ndef samples():\n    random = np.random.default_rng(1)\n"
        "    for i in range(400):\n"
        "        yield f's{i}', {'x': random.standard_normal((1, 16)).astype(np.float32)}\n"
    )
    (folder / "sdk.toml").write_text(
        '[model]\nname = "net"\nsource = "net.onnx"\n[dims]\n'
        'batch = { min = 1, opt = 1, max = 4 }\n[data]\nsamples = "data.py:samples"\n'
    )
    return folder


@pytest.mark.long
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
@pytest.mark.parametrize("moment", ["capturing", "lowering", "checking", "measuring"])
def test_a_build_ended_at_any_step_leaves_nothing_and_the_next_run_resumes(
    moment: str, end: signal.Signals, tmp_path: Path
) -> None:
    project = onnx_project(tmp_path / "project")
    arguments = ["build", str(project), *FAST, "--out", str(tmp_path / "out")]
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen([*SDK, *arguments], stdout=stream, stderr=stream)
        deadline = time.monotonic() + 300
        while moment not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(end)
        expected = 130 if end == signal.SIGINT else -signal.SIGKILL
        assert process.wait(30) == expected, log.read_text()
    # Nobody is left to wait for a killed build's children: the kernel ends them.
    deadline = time.monotonic() + (0 if end == signal.SIGINT else 10)
    while children := processes_of(tmp_path):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)
    assert not (tmp_path / "out" / "net" / "manifest.json").exists()
    again = sdk(*arguments)
    assert again.returncode == 0, again.stderr
    if moment != "capturing":
        assert "cached: capture" in again.stderr
    if moment == "measuring":
        assert "lowering" not in again.stderr


def processes_of(folder: Path) -> str:
    """The processes that have the folder in their command."""
    found = subprocess.run(
        ["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False
    )
    return found.stdout


@pytest.mark.long
def test_a_build_killed_while_writing_leaves_the_old_output_or_the_new(tmp_path: Path) -> None:
    """Killed at each durable operation in turn: every file that a manifest names is right."""
    from agent.files import sha256_of

    project, out = onnx_project(tmp_path / "project"), tmp_path / "out"
    arguments = ["build", str(project), *FAST, "--out", str(out)]
    assert sdk(*arguments).returncode == 0
    code = (
        "import os, sys, agent.files as files\n"
        "left = int(sys.argv[1])\n"
        "def dying(function):\n"
        "    def wrapped(*arguments):\n"
        "        global left\n"
        "        left -= 'out' in str(arguments[0])\n"
        "        if left < 0: os.kill(os.getpid(), 9)\n"
        "        return function(*arguments)\n"
        "    return wrapped\n"
        "from pathlib import Path\n"
        "Path.replace, Path.rename = dying(Path.replace), dying(Path.rename)\n"
        "from sdk.cli.app import run; sys.exit(run(sys.argv[2:]))"
    )
    killed = 0
    for survives in range(40):
        limit = f"latency_p50_ms={100 + survives}"  # another manifest, nothing measured again
        found = subprocess.run(
            [sys.executable, "-P", "-c", code, str(survives), *arguments, "--limit", limit],
            capture_output=True,
            check=False,
        )
        manifest = parse((out / "net" / "manifest.json").read_bytes())
        json.loads((out / "net" / "summary.json").read_bytes())
        for entry in manifest.variants:
            name = entry.id.rsplit("/", 1)[-1]
            folders = list((out / "net" / entry.profile).glob(f"{name}@*"))
            assert any(
                all(sha256_of(folder / f.path) == f.sha256 for f in entry.files)
                for folder in folders
            )
        if found.returncode == 0:
            break
        assert found.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 3


@pytest.mark.long
def test_who_cannot_be_measured_fails_with_its_log_beside_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.steps.prove.TURN_LIMIT_S", 0.001)  # nothing loads within that
    (found,) = api.build(
        onnx_project(tmp_path / "project"), targets=["intel"], profiles=["host"],
        out=tmp_path / "out",
    ).results  # fmt: skip
    failed = {
        one.identifier.rpartition("/")[2]
        for one in found.candidates
        if (one.reason or "").startswith("hung")
    }
    assert failed
    assert failed <= {log.stem for log in (tmp_path / "out").glob("net/logs/*.log")}


def test_a_full_disk_is_said_and_the_old_output_stays(built: Built, tmp_path: Path) -> None:
    """A real file system with no room: a small tmpfs, which takes root to mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        found = sdk("build", str(built.project), *FAST, "--out", str(small))
        assert found.returncode == 6, found.stderr
        assert "No space left" in found.stderr
        assert not (small / "tiny" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
