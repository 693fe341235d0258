"""Real models and the real preflight: what a device finds itself decides."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agent
from agent.codec import pretty
from agent.config import Config, Preflight
from agent.files import sha256_of
from agent.manifest import (
    Blob,
    EvaluationPack,
    File,
    Floor,
    Gate,
    Manifest,
    Runtime,
    VariantEntry,
    serialise,
)
from agent.processes import tree
from agent.sessions import active
from agent.tensors import write_tensors
from agent.updates import proving
from agent.updates.home import Home
from agent.updates.install import confirm_now, install
from agent.updates.journal import Action
from agent.variant import read_record
from sdk.release.assign import assignment_for
from sdk.release.package import export
from targets.interface import Program
from tests.toolchains.cases import CASES, VENDOR_WARNINGS
from tests.toolchains.variants import lower
from tests.toolchains.zoo import ZOO, Entry, exported
from tests.updates.devices import fresh_fleet
from tests.updates.fleet import GROUP, MODEL, Fleet, reports_of
from tests.updates.machine import machine

pytestmark = [pytest.mark.toolchain, *VENDOR_WARNINGS]

RECIPES = ("onnxruntime-f32", "openvino-f32")
ENTRY: Entry = ZOO["cnn"]


@dataclasses.dataclass(frozen=True)
class Kit:
    """One small network, lowered by two toolchains, with the original's answers."""

    program: Program
    folders: Mapping[str, Path]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    root = tmp_path_factory.mktemp("kit")
    program = exported(ENTRY, root)
    cases = {case.name: case for case in CASES}
    folders = {name.partition("-")[0]: root / name for name in RECIPES}
    for name, folder in zip(RECIPES, folders.values(), strict=True):
        lower(cases[name], ENTRY, program, folder)
    return Kit(program, folders)


def pack(path: Path, count: int, *, wrong: float = 0.0, labels: bool = False) -> Blob:
    """Inputs with the original's answers, or with others where those are to be wrong."""
    arrays: list[tuple[str, Any]] = []
    random = np.random.default_rng(7)
    for index in range(count):
        sample = ENTRY.sample(seed=index)
        answers = ENTRY.eager(sample)
        arrays += [(f"{index:05}/in/{name}", array) for name, array in sample.items()]
        for name, answer in answers.items():
            off = answer + wrong * random.standard_normal(answer.shape).astype(answer.dtype)
            arrays.append((f"{index:05}/out/{name}", off.astype(answer.dtype)))
            if labels:
                arrays.append((f"{index:05}/label", np.asarray(int(answer.argmax()))))
    write_tensors(path, arrays)
    return Blob(sha256=sha256_of(path), length=path.stat().st_size)


def build(
    kit: Kit,
    folder: Path,
    variants: Mapping[str, str],
    *,
    wrong_golden: float = 0.0,
    wrong_evaluation: float | None = None,
    selection: Any = "rank",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    spoilt: Mapping[str, bytes] | None = None,
    **entry: Any,
) -> Path:
    """A build folder: name -> runtime; the last one is the baseline."""
    folder.mkdir(parents=True)
    golden = pack(folder / "golden.safetensors", 4, wrong=wrong_golden)
    evaluation = None
    if wrong_evaluation is not None:
        blob = pack(folder / "evaluation.safetensors", 40, wrong=wrong_evaluation)
        evaluation = EvaluationPack(
            sha256=blob.sha256, length=blob.length, metric="top1_agreement", higher_is_better=True
        )
    entries = []
    for rank, (name, runtime) in enumerate(variants.items()):
        record = read_record(kit.folders[runtime])
        place = folder / "intel-any" / f"{name}@0123abcd"
        files = []
        for file in record.files:
            (place / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kit.folders[runtime] / file.path, place / file.path)
            if spoilt and name in spoilt:
                (place / file.path).write_bytes(spoilt[name])
            files.append(
                File(
                    path=file.path,
                    sha256=sha256_of(place / file.path),
                    length=(place / file.path).stat().st_size,
                )
            )
        entries.append(
            VariantEntry(
                id=f"{MODEL}/intel-any/{name}",
                target="intel",
                profile="intel-any",
                role="baseline" if rank == len(variants) - 1 and rank else "chosen",
                rank=rank,
                selection=selection,
                match={},
                runtime=Runtime(format=runtime, at_least=None, below=None),
                options={**record.options, **(options or {}).get(name, {})},
                unpacked_bytes=sum(file.length for file in files),
                files=tuple(files),
                floors=(Floor(output="output", metric="cosine", min_ppm=999_000),),
                drop_max_ppm=20_000 if evaluation else None,
                gates=entry.get("gates", ()),
                provenance={},
            )
        )
    signature = kit.program.signature
    manifest = Manifest(
        version=1,
        model=MODEL,
        release=None,
        release_counter=None,
        requires=(),
        inputs=signature.inputs,
        outputs=signature.outputs,
        dims=signature.dims,
        golden=golden,
        evaluation=evaluation,
        variants=tuple(entries),
    )
    (folder / "manifest.json").write_bytes(serialise(manifest))
    verdicts = [{"profile": "intel-any", "verdict": "met"}]
    (folder / "summary.json").write_bytes(
        pretty({"schema": 1, "model": MODEL, "results": verdicts})
    )
    return folder


Installs = Callable[..., Action]


class Bench:
    """A device that installs what a test builds, proven by the real preflight."""

    def __init__(self, kit: Kit, fleet: Fleet) -> None:
        self.kit, self.fleet = kit, fleet
        self.lines: list[str] = []
        self.count = 0
        self.config = fleet.device(repository=None, preflight=Preflight(measure_s=0.3))

    def installs(
        self, variants: Mapping[str, str] | None = None, more: tuple[Gate, ...] = (), **options: Any
    ) -> Action:
        self.count += 1
        folder = self.fleet.folder / f"built-{self.count}"
        built = build(self.kit, folder, variants or {"onnx": "onnxruntime"}, **options)
        published = self.fleet.publish(f"{self.count}.0.0", built)
        assignment = self.fleet._later(assignment_for(published, group=GROUP))
        package = self.fleet.folder / f"package-{self.count}.zip"
        export(self.fleet.repository(), dataclasses.replace(assignment, gates=more), package)
        with Home(self.config) as home:
            action = install(home, package, self.lines.append)
            self.reports = list(reports_of(home))
        return action

    def confirms(self) -> None:
        with Home(self.config) as home:
            confirm_now(home, MODEL)

    def configured(self, **changes: Any) -> None:
        self.config: Config = dataclasses.replace(self.config, **changes)

    @property
    def proof(self) -> Mapping[str, Any]:
        """Of the variant that the last report is about."""
        last = self.reports[-1]
        proofs = last["proof"]
        found: Mapping[str, Any] = (
            proofs[last["variant"]] if last["variant"] else next(iter(proofs.values()))
        )
        return found


@pytest.fixture
def bench(kit: Kit, tmp_path: Path) -> Iterator[Bench]:
    before = set(tree(os.getpid()))
    yield Bench(kit, fresh_fleet(tmp_path))
    left = set(tree(os.getpid())) - before
    assert not left, "a preflight left processes behind"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_good_variant_passes_and_runs(bench: Bench, runtime: str) -> None:
    gates = (
        Gate(quantity="latency_us", quantile_permille=500, max=10**9),
        Gate(quantity="memory_peak_bytes", max=4 << 30),
    )
    action = bench.installs({"v": runtime}, gates=gates, wrong_evaluation=0.0)
    assert action.state == "TRIAL", action.reason
    facts = bench.proof["facts"]
    assert float(facts["agreement"]["output"]) > 0.9999
    assert facts["drop"]["n"] == 40
    assert facts["memory_bytes"] > 10 << 20
    assert facts["network"], "none, or why it could not be left"
    assert float(facts["measurement"]["latency_ms"]["p50"]) > 0
    with active(MODEL, bench.config.state) as session:
        for seed in range(25):
            sample = ENTRY.sample(seed=seed)
            answer = session.run(sample)["output"]
            np.testing.assert_allclose(answer, ENTRY.eager(sample)["output"], rtol=1e-3, atol=1e-4)


REFUSED = [
    ("golden data off its floor", {"wrong_golden": 5.0}, "output: cosine"),
    ("accuracy drops", {"wrong_evaluation": 50.0}, "top1_agreement drops by"),
    ("too slow", {"gates": (Gate(quantity="latency_us", max=1),)}, "latency_us is"),
    (
        "too few",
        {"gates": (Gate(quantity="throughput_milli_per_s", min=10**15),)},
        "throughput_milli_per_s is",
    ),
    (
        "too much memory",
        {"gates": (Gate(quantity="memory_peak_bytes", max=1 << 20),)},
        "memory_peak_bytes is",
    ),
    ("no model at all", {"spoilt": {"onnx": b"this is no model"}}, "prepare failed (error)"),
    (
        "an option that is not known",
        {"options": {"onnx": {"speed": "fast"}}},
        "prepare failed (error)",
    ),
]


@pytest.mark.parametrize(
    ("options", "reason"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_does_not_hold_here_is_refused_with_its_reason(
    bench: Bench, options: dict[str, Any], reason: str
) -> None:
    action = bench.installs(**options)
    assert action.state == "FAILED"
    assert reason in action.reason
    assert not (bench.config.state / "models" / MODEL / "current").is_symlink()
    assert bench.reports[-1]["state"] == "FAILED"
    assert bench.reports[-1]["reason"] == action.reason
    assert bench.proof["reasons"]


def test_slower_than_what_runs_is_refused_where_the_assignment_says_so(bench: Bench) -> None:
    assert bench.installs().state == "TRIAL"
    bench.confirms()
    gate = Gate(
        quantity="latency_us", quantile_permille=500, ratio_max_permille=100, ratio_to="running"
    )
    action = bench.installs({"vino": "openvino"}, more=(gate,))
    assert action.state == "FAILED"
    assert "of the running one's" in action.reason
    with active(MODEL, bench.config.state) as session:
        assert session.slot.manifest.release == "1.0.0"
    bench.installs(
        {"vino": "openvino"}, more=(dataclasses.replace(gate, ratio_max_permille=10**6),)
    )
    facts = bench.proof["facts"]
    assert 0 < float(facts["ratio_to_running"]["low"]) <= float(facts["ratio_to_running"]["high"])
    ratios = {name: float(told) for name, told in facts["ratios_to_running"].items()}
    assert ratios["latency@500"] == float(facts["ratio_to_running"]["value"])
    assert 0.1 < ratios["memory"] < 10


def test_a_ratio_is_skipped_and_said_on_a_first_install(bench: Bench) -> None:
    gate = Gate(quantity="latency_us", ratio_max_permille=1, ratio_to="running")
    assert bench.installs(gates=(gate,)).state == "TRIAL"
    assert any("against the running one: there is none" in line for line in bench.lines)


def test_gates_relative_to_the_baseline(bench: Bench) -> None:
    both = {"vino": "openvino", "onnx": "onnxruntime"}
    gate = Gate(quantity="latency_us", ratio_max_permille=1, ratio_to="baseline")
    action = bench.installs(both, gates=(gate,))
    assert action.state == "TRIAL", "the baseline itself has nothing to be held against"
    assert action.variant == f"{MODEL}/intel-any/onnx"
    proofs = bench.reports[-1]["proof"]
    assert "of the baseline one's" in proofs[f"{MODEL}/intel-any/vino"]["reasons"][0]


def test_with_measure_the_fastest_of_three_is_taken(bench: Bench) -> None:
    three = {"one": "openvino", "two": "onnxruntime", "three": "onnxruntime"}
    action = bench.installs(three, selection="measure")
    assert action.state == "TRIAL"
    proofs = bench.reports[-1]["proof"]
    assert len(proofs) == 3
    times = {
        name: float(p["facts"]["measurement"]["latency_ms"]["p50"]) for name, p in proofs.items()
    }
    assert action.variant == min(times, key=lambda name: times[name])


def test_with_rank_the_first_that_passes_is_taken(bench: Bench) -> None:
    variants = {"broken": "onnxruntime", "good": "onnxruntime", "never": "openvino"}
    action = bench.installs(variants, spoilt={"broken": b"no"})
    assert action.variant == f"{MODEL}/intel-any/good"
    assert len(bench.reports[-1]["proof"]) == 2


def test_on_a_busy_device_ratios_decide_and_seconds_do_not(bench: Bench, tmp_path: Path) -> None:
    bench.configured(root_folder=machine(tmp_path / "root", load="64.00"))
    assert bench.installs().state == "TRIAL"
    bench.confirms()
    slow = Gate(quantity="latency_us", max=1)
    action = bench.installs({"vino": "openvino"}, gates=(slow,))
    assert action.state == "TRIAL", action.reason
    assert any("only ratios are judged" in line for line in bench.lines)
    bench.confirms()
    ratio = Gate(quantity="latency_us", ratio_max_permille=1, ratio_to="running")
    action = bench.installs(gates=(slow, ratio))
    assert "of the running one's" in action.reason


def test_with_too_little_memory_speed_is_left_to_the_trial(bench: Bench, tmp_path: Path) -> None:
    bench.configured(root_folder=machine(tmp_path / "root", free_mib=20))
    slow = Gate(quantity="latency_us", max=1)
    action = bench.installs(gates=(slow,))
    assert action.state == "TRIAL", action.reason
    assert "measurement" not in bench.proof["facts"]
    assert any("its speed is left to the trial" in note for note in bench.proof["notes"])
    bench.confirms()
    heavy = Gate(quantity="memory_peak_bytes", max=1 << 20)
    action = bench.installs({"vino": "openvino"}, gates=(heavy,))
    assert "memory_peak_bytes is" in action.reason, "memory is known all the same"


def test_a_memory_limit_is_kept(bench: Bench) -> None:
    bench.configured(preflight=Preflight(measure_s=0.3, memory_mib=30))
    action = bench.installs()
    assert action.state == "FAILED"
    assert "out_of_memory" in action.reason
    assert "30 MiB" in action.reason


# What a runtime may do to the process that loads it, at each stage.
WAYS = {
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs": "import time; time.sleep(600)",
    "eats memory": "_kept = bytearray(3 << 30); _kept[::4096] = b'x' * len(_kept[::4096])",
}
STAGES = {"prepare": "load", "golden": "run", "speed": "run_unchecked"}
"""Stage -> what of a session goes wrong in it."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_runtime_that_goes_wrong_refuses_and_harms_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str, stage: str
) -> None:
    bench.installs()
    bench.confirms()
    # The real preflight, with a runtime of which one call goes wrong.
    broken = tmp_path / "broken"
    shutil.copytree(Path(proving.__file__).parent.parent, broken / "agent")
    session = broken / "agent" / "sessions" / "__init__.py"
    text = session.read_text()
    if stage == "prepare":
        mark = "    module = session_module(check_as or record.runtime.format)\n"
    elif stage == "golden":
        mark = "        arrays = check_inputs(self.record.signature, inputs)\n"
    else:
        mark = "        return self._inner.run(inputs)\n"
    assert text.count(mark) == 1
    pad = mark[: len(mark) - len(mark.lstrip())]
    session.write_text(text.replace(mark, f"{pad}{WAYS[way]}\n{mark}"))
    monkeypatch.setattr("agent.bootstrap.__file__", str(broken / "agent" / "bootstrap.py"))
    bench.configured(
        preflight=Preflight(seconds=20.0 if way != "hangs" else 6.0, measure_s=0.3, memory_mib=1000)
    )
    began = time.monotonic()
    action = bench.installs({"vino": "openvino"})
    assert time.monotonic() - began < 40
    assert action.state == "FAILED"
    kind = {"crashes": "crashed", "hangs": "hung", "eats memory": "out_of_memory"}[way]
    assert kind in action.reason, action.reason
    monkeypatch.undo()
    with active(MODEL, bench.config.state) as running:
        assert running.slot.manifest.release == "1.0.0"
        assert running.run(ENTRY.sample())["output"].shape == (1, 10)


def test_no_time_at_all(bench: Bench) -> None:
    bench.configured(preflight=Preflight(seconds=0.001))
    action = bench.installs()
    assert action.state == "FAILED"
    assert "hung" in action.reason or "no time was left" in action.reason


def test_an_agent_that_has_proven_something_holds_no_runtime(bench: Bench, tmp_path: Path) -> None:
    built = build(bench.kit, tmp_path / "built", {"onnx": "onnxruntime"}, wrong_evaluation=0.0)
    bench.fleet.release("1.0.0", built)
    config = dataclasses.replace(bench.config, repository=str(bench.fleet.repo))
    (config.state / "agent.toml").write_text(
        f'repository = "{config.repository}"\ngroup = "{GROUP}"\nreserve_mib = 0\n'
        "[preflight]\nmeasure_s = 0.3\n"
    )
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--state", str(config.state)],
            cwd=Path(agent.__file__).parent.parent, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while "net: TRIAL" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert not [name for name in ("numpy", "onnxruntime", "openvino", "torch") if name in maps]
        with active(MODEL, config.state) as session:
            for seed in range(25):
                session.run(ENTRY.sample(seed=seed))
        while "net: CONFIRMED: 20 runs" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
