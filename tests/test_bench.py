"""The measuring harness, with real variants in real processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.bench import (
    Budget,
    Comparison,
    Contestant,
    Failure,
    Measurement,
    Race,
    bench_one,
    compare,
    compare_folders,
    contest,
)
from agent.codec import canonical, decode, encode
from agent.engine_build import package_release
from agent.errors import ToolchainError, UsageError, VerificationError
from agent.files import sha256_of
from agent.manifest import File, Runtime, Signature, TensorSpec
from agent.processes import memory, tree, tree_memory
from agent.sessions import session_module
from agent.tensors import write_tensors
from agent.variant import RECORD_NAME, VariantRecord, read_record, record_bytes

pytestmark = pytest.mark.toolchain

BRIEF = Budget(seconds_per_contestant=0.3, window_s=0.02, settle_s=0.005, warmup_s=0.05, min_runs=1)
SIZE = 64


def make_variant(
    folder: Path, *, layers: int = 1, last_op: str = "Relu", options: dict | None = None
) -> Path:
    """A stack of matrix products, and a record beside it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        weight = rng.normal(scale=0.1, size=(SIZE, SIZE)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        source = "x" if layer == 0 else f"h{layer - 1}"
        nodes.append(helper.make_node("MatMul", [source, f"w{layer}"], [f"h{layer}"]))
    nodes.append(helper.make_node(last_op, [f"h{layers - 1}"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", SIZE])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    spec = {"dtype": "float32", "shape": ("rows", SIZE)}
    record = VariantRecord(
        version=1,
        id=f"stack/host/{folder.name}",
        model="stack",
        target="intel",
        profile="host",
        runtime=Runtime(format="onnxruntime", at_least=None, below=None),
        options={"intra_op_threads": 1, **(options or {})},
        signature=Signature(
            inputs=(TensorSpec(name="x", **spec),),
            outputs=(TensorSpec(name="y", **spec),),
            dims={"rows": (1, SIZE, 4 * SIZE)},
        ),
        files=(File(path=path.name, sha256=sha256_of(path), length=path.stat().st_size),),
        provenance={},
    )
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
    return folder


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> dict[str, Contestant]:
    root = tmp_path_factory.mktemp("variants")
    folders = {
        "small": make_variant(root / "small"),
        "same": make_variant(root / "same"),
        "large": make_variant(root / "large", layers=64),
        "nan": make_variant(root / "nan", last_op="Log"),
        "broken": make_variant(root / "broken"),
    }
    (folders["broken"] / "model.onnx").write_bytes(b"not a model")
    return {name: Contestant(name, folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "inputs.safetensors"
    rng = np.random.default_rng(1)
    write_tensors(
        path,
        ((f"{i:05}/in/x", rng.normal(size=(SIZE, SIZE)).astype(np.float32)) for i in range(4)),
    )
    return path


@pytest.fixture
def measure(inputs, tmp_path, variants):
    """Run a contest by the contestants' names; what it left running is a failure of the test."""
    pids: list[int] = []

    def run(*names: str, on_event=lambda _: None, **options):
        def listen(event):
            if event["event"] == "started":
                pids.append(event["pid"])
            on_event(event)

        return contest(
            [variants[name] for name in names],
            inputs=inputs,
            log_folder=tmp_path / "logs",
            on_event=listen,
            **{"budget": BRIEF, **options},
        )

    yield run
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def signal_at(signal_number: int, *, event: str, name: str):
    """An on_event that signals one contestant's process when it gets so far, the first time."""
    pids: dict[str, int] = {}
    sent: list[str] = []

    def listen(happened):
        if happened["event"] == "started":
            pids[happened["name"]] = happened["pid"]
        if (happened["event"], happened["name"]) == (event, name) and not sent:
            sent.append(name)
            os.kill(pids[name], signal_number)

    return listen


def test_a_measurement_says_how_fast_how_big_and_under_what(measure):
    found = measure("small")["small"]
    assert isinstance(found, Measurement)
    latency = found.latency_ms
    assert latency.low <= latency.p50 <= latency.high
    assert latency.n >= 9
    assert len(found.windows_ms) >= 9
    assert min(found.load_ms, found.first_run_ms) > 0
    told_apart = hasattr(session_module("onnxruntime"), "import_runtime")
    assert (found.import_ms is not None) == told_apart
    assert found.callers == 1
    assert found.throughput_per_s > 0
    assert found.memory_peak_bytes is not None
    assert found.memory_increment_bytes is not None
    assert 0 <= found.memory_increment_bytes < found.memory_peak_bytes
    assert found.placement == {"CPUExecutionProvider": 1.0}
    assert {"python", "numpy", "onnxruntime"} <= set(found.versions)
    assert found.environment["cpus"] >= 1
    assert found.conditions_before.load_1m is not None


def test_callers_run_at_a_time_and_a_batch_counts_for_its_runs(tmp_path, inputs):
    folders = {
        name: make_variant(tmp_path / name, layers=8, options=options)
        for name, options in {
            "one": {},
            "two": {"callers": 2},
            "batched": {"batch": 4 * SIZE, "batch_dim": "rows"},
        }.items()
    }
    found = contest(
        [Contestant(name, folder) for name, folder in folders.items()],
        inputs=inputs,
        log_folder=tmp_path / "logs",
        budget=BRIEF,
    )
    one, two, batched = (found[name] for name in folders)
    assert (one.callers, two.callers, batched.callers) == (1, 2, 1)
    assert (one.batch, two.batch, batched.batch) == (None, None, 4 * SIZE)
    assert not any("callers" in note or "in each run" in note for note in one.notes)
    assert "2 callers at a time" in two.notes[0]
    assert f"{4 * SIZE} in each run" in batched.notes[0]
    for each, in_one in ((one, 1), (two, 2), (batched, 4)):
        assert np.median(each.turns_ms) == pytest.approx(1e3 / each.throughput_per_s, rel=0.5)
        # Runs in a second: callers, or the batch, over the mean latency; on a machine that does
        # something else meanwhile, the mean is above the median.
        assert 0.7 * each.latency_ms.p50 < 1e3 * in_one / each.throughput_per_s
        assert 1e3 * in_one / each.throughput_per_s < 5 * each.latency_ms.p50
    assert batched.latency_ms.p50 > one.latency_ms.p50
    assert compare(batched, one, "throughput").value < compare(batched, one).value


def test_a_measurement_survives_json(measure):
    found = measure("small")["small"]
    assert decode(Measurement, encode(found)) == found
    canonical(found)  # no NaN and no infinity in it


def test_contestants_take_turns_and_a_larger_one_is_measured_slower(measure):
    events = []
    found = measure("small", "large", on_event=events.append)
    turns = [event["name"] for event in events if event["event"] == "window"]
    assert turns == ["small", "large"] * (len(turns) // 2)
    assert list(found) == ["small", "large"]
    ratio = compare(found["large"], found["small"])
    assert ratio.low > 1
    assert ratio.rounds == len(turns) // 2


def test_whose_turn_it_is_is_told_before_it_begins(measure):
    told = []
    measure("small", "same", on_event=lambda event: told.append((event["event"], event["name"])))
    turn = ""
    for event, name in told:
        turn = name if event == "turn" else turn
        assert name == turn
    assert told[-1] == ("turn", "same"), "the last questions are asked in turns as well"


def test_who_is_surely_slower_than_the_leader_goes_home_early(measure):
    found = measure("large", "small", "same", race=Race(pace=("small", "same")))
    assert len(found["large"].windows_ms) == 6
    assert "left after 6 turns" in found["large"].notes[0]
    assert len(found["small"].windows_ms) >= BRIEF.min_rounds
    assert compare(found["large"], found["small"]).low > 1.5


def test_whoever_is_needed_stays_and_the_unfit_set_no_pace(measure):
    kept = measure("large", "small", race=Race(pace=("small",), keep=("large",)))
    assert len(kept["large"].windows_ms) == len(kept["small"].windows_ms)
    unfit = measure("large", "small", race=Race(pace=("large",)))
    assert len(unfit["large"].windows_ms) == len(unfit["small"].windows_ms)


def test_while_one_measures_the_others_are_stopped(measure):
    pids, seen = {}, []

    def look(event):
        if event["event"] == "started":
            pids[event["name"]] = event["pid"]
        if event["event"] == "window":
            seen.append({name: state(pid) for name, pid in pids.items()})

    measure("small", "same", on_event=look)
    assert seen
    # At the moment of a window's event its own contestant is paused as well.
    assert all(set(states.values()) == {"T"} for states in seen)


def state(pid: int) -> str:
    deadline = time.monotonic() + 5
    while True:  # a signal takes a moment to stop every thread
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if found == "T" or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_is_that_contestants_failure_and_the_others_go_on(measure, number):
    found = measure("small", "same", on_event=signal_at(number, event="window", name="small"))
    assert isinstance(found["same"], Measurement)
    failure = found["small"]
    assert isinstance(failure, Failure)
    assert failure.kind == "crashed"
    assert signal.Signals(number).name in failure.message


def test_a_hang_ends_at_the_time_limit(measure):
    found = measure(
        "small",
        "same",
        on_event=signal_at(signal.SIGSTOP, event="started", name="small"),
        time_limit_s=8,
    )
    assert isinstance(found["small"], Failure)
    assert found["small"].kind == "hung"
    assert "'load' within 8 s" in found["small"].message
    assert isinstance(found["same"], Measurement)


def test_a_hang_while_measuring_is_found_too(measure):
    pids: list[int] = []

    def listen(event):
        if event["event"] == "started":
            pids.append(event["pid"])
        if event["event"] == "loaded":  # a moment later it is in the midst of its first window
            threading.Timer(0.3, os.kill, [pids[0], signal.SIGSTOP]).start()

    long_windows = dataclasses.replace(BRIEF, window_s=1.0)
    found = measure("small", on_event=listen, time_limit_s=8, budget=long_windows)
    assert isinstance(found["small"], Failure)
    assert found["small"].kind == "hung"


def test_too_much_memory_is_a_failure_that_names_both_figures(measure):
    found = measure("small", memory_limit_mib=8)
    failure = found["small"]
    assert isinstance(failure, Failure)
    assert failure.kind == "out_of_memory"
    assert "more than the limit of 8 MiB" in failure.message


def test_nan_in_an_output_is_a_wrong_answer(measure):
    found = measure("nan", "small")
    assert isinstance(found["nan"], Failure)
    assert (found["nan"].kind, "y" in found["nan"].message) == ("wrong_answer", True)
    assert isinstance(found["small"], Measurement)


def test_a_file_that_the_runtime_refuses_is_an_error_in_its_words(measure):
    found = measure("broken", "small")
    assert isinstance(found["broken"], Failure)
    assert found["broken"].kind == "error"
    assert "cannot load model.onnx" in found["broken"].message
    assert isinstance(found["small"], Measurement)


@pytest.mark.skipif(package_release() is not None, reason="TensorRT is here")
def test_a_runtime_that_is_missing_is_named_with_how_to_install_it(measure, tmp_path, inputs):
    folder = make_variant(tmp_path / "engine")
    record = read_record(folder)
    runtime = dataclasses.replace(record.runtime, format="tensorrt")
    (folder / RECORD_NAME).write_bytes(record_bytes(dataclasses.replace(record, runtime=runtime)))
    with pytest.raises(ToolchainError) as told:
        bench_one(folder, inputs=inputs, budget=BRIEF)
    assert "engine cannot be measured" in told.value.what
    assert "needs the runtime tensorrt" in told.value.what
    assert "Error:" not in told.value.what
    assert "not installed" in told.value.cause
    assert "pip install tensorrt" in told.value.remedy


def test_a_python_that_is_not_there_is_an_error(measure, variants):
    variants["lost"] = dataclasses.replace(variants["small"], name="lost", python="/no/python")
    failure = measure("lost")["lost"]
    assert isinstance(failure, Failure)
    assert failure.kind == "error"
    assert "/no/python cannot be started" in failure.message


def test_an_interrupt_leaves_no_process_behind(measure):
    def interrupt(event):
        if event["event"] == "window":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("small", "same", on_event=interrupt)


PARENT = """\
import sys
from pathlib import Path
from agent.bench import Budget, Contestant, contest
folders = [Path(folder) for folder in sys.argv[2:]]
contest(
    [Contestant(folder.name, folder) for folder in folders],
    inputs=Path(sys.argv[1]), log_folder=folders[0].parent / "logs",
    budget=Budget(seconds_per_contestant=60, min_runs=10**9),
    on_event=lambda event: print(event["event"], event.get("pid", ""), flush=True))
"""


def test_children_die_with_a_parent_that_is_killed_paused_or_not(inputs, variants):
    folders = [str(variants[name].folder) for name in ("small", "same")]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(inputs), *folders], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = []
    for line in parent.stdout:
        event, _, pid = line.strip().partition(" ")
        if event == "started":
            pids.append(int(pid))
        if event == "window":
            break
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_what_vendors_print_cannot_disturb_the_conversation(measure, tmp_path, monkeypatch):
    noise = "import os, threading\nos.write(1, b'hello\\n{}\\n')\nprint('[]', flush=True)\n"
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text(noise)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "noise"))
    assert isinstance(measure("small")["small"], Measurement)
    assert "hello" in (tmp_path / "logs" / "small.log").read_text()


def test_a_users_own_agent_package_does_not_shadow_ours(measure, tmp_path, monkeypatch):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert isinstance(measure("small")["small"], Measurement)


def test_names_with_slashes_get_a_log_of_their_own(inputs, variants, tmp_path):
    contestant = dataclasses.replace(variants["broken"], name="stack/host/onnxruntime-f32-1a2b")
    contest([contestant], inputs=inputs, log_folder=tmp_path, budget=BRIEF)
    assert [path.name for path in tmp_path.iterdir()] == ["stack_host_onnxruntime-f32-1a2b.log"]


def test_no_contestants_is_no_contest(measure):
    assert measure() == {}


def test_two_contestants_of_one_name_are_refused(measure):
    with pytest.raises(UsageError, match="share a name"):
        measure("small", "small")


def test_inputs_that_are_not_there_are_refused(variants, tmp_path):
    with pytest.raises(UsageError, match="no inputs at"):
        bench_one(variants["small"].folder, inputs=tmp_path / "none", budget=BRIEF)


def test_a_file_without_inputs_is_that_contestants_error(variants, tmp_path):
    write_tensors(tmp_path / "labels", [("00000/label", np.array([1]))])
    with pytest.raises(ToolchainError, match="holds no inputs"):
        bench_one(variants["small"].folder, inputs=tmp_path / "labels", budget=BRIEF)


def test_one_variant_alone_is_measured_or_raises(variants, inputs):
    found = bench_one(variants["small"].folder, inputs=inputs, budget=BRIEF)
    assert found.name == "small"
    with pytest.raises(ToolchainError, match="cannot load model"):
        bench_one(variants["broken"].folder, inputs=inputs, budget=BRIEF)


def test_two_folders_are_compared_in_one_contest(variants, inputs):
    found = compare_folders(
        variants["large"].folder, variants["small"].folder, inputs=inputs, budget=BRIEF
    )
    assert isinstance(found, Comparison)
    assert (found.left.name, found.right.name) == ("large", "small")
    assert found.ratio.low > 1


def with_windows(measurement: Measurement, windows: list[float]) -> Measurement:
    return dataclasses.replace(measurement, windows_ms=tuple(windows))


def test_rounds_that_slow_both_alike_do_not_blur_the_ratio(measure):
    found = measure("small")["small"]
    assert isinstance(found, Measurement)
    weather = [1.0, 1.0, 3.0, 1.2, 1.0, 2.0, 1.1]
    fast = with_windows(found, [0.8 * w for w in weather])
    ratio = compare(fast, with_windows(found, weather))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.8, 0.8, 0.8))
    assert ratio.rounds == 7


def test_ratios_that_disagree_leave_an_interval_around_one(measure):
    found = measure("small")["small"]
    assert isinstance(found, Measurement)
    one = with_windows(found, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    ratio = compare(one, with_windows(found, [2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]))
    assert ratio.low < 1 < ratio.high


def test_a_budget_that_runs_out_before_the_median_settles_is_said(measure):
    never = dataclasses.replace(BRIEF, tolerance=0.0)
    found = measure("small", budget=never)["small"]
    assert isinstance(found, Measurement)
    assert not found.latency_ms.stable
    assert any("had not settled" in note for note in found.notes)


def test_a_tree_is_a_process_with_all_that_descend_from_it():
    script = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 10
        while len(tree(parent.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        members = tree(parent.pid)
        assert members[0] == parent.pid
        assert len(members) == 2
        assert tree_memory(parent.pid) > (memory(parent.pid) or 0)
    finally:
        for pid in reversed(tree(parent.pid)):
            os.kill(pid, signal.SIGKILL)
        parent.wait()


def test_inputs_of_the_wrong_shape_are_that_contestants_error(variants, tmp_path):
    write_tensors(tmp_path / "wrong", [("00000/in/x", np.zeros((2, 2), np.float32))])
    with pytest.raises(ToolchainError, match=r"shape \(2, 2\)"):
        bench_one(variants["small"].folder, inputs=tmp_path / "wrong", budget=BRIEF)


def test_a_broken_file_of_inputs_is_an_error(variants, tmp_path):
    (tmp_path / "broken").write_bytes(b"\xff" * 64)
    with pytest.raises((ToolchainError, VerificationError), match="not a readable safetensors"):
        bench_one(variants["small"].folder, inputs=tmp_path / "broken", budget=BRIEF)
