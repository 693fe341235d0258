"""How the building of an engine is handled: by a stand-in for trtexec, which builds nothing.

No engine is built here and none is run: the stand-in shows what becomes of a builder that works,
refuses, crashes, hangs, fills the disk or talks nonsense.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent import engine_build, sessions
from agent.cuda import load_cuda, room_for
from agent.engine_build import ENGINE, LOG, RECORD, Builder, build_engine, find_builder
from agent.engine_plan import EngineSettings, plan_engine
from agent.errors import StorageError, ToolchainError, UsageError
from agent.files import sha256_of
from agent.identity import fingerprint
from agent.manifest import File, Fingerprint, Runtime, Signature, TensorSpec
from agent.sessions import StaleError, load, prepared_folder
from agent.sessions import tensorrt as session
from agent.variant import RECORD_NAME, VariantRecord, record_bytes

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    dims={"batch": (1, 2, 8)},
)
PLAN = plan_engine(EngineSettings(), SIGNATURE, "10.3.0")
STAND_IN = """\
    #!{python}
    # A stand-in for trtexec: it builds nothing, and does as the file `behaviour` beside it says.
    import json, os, pathlib, subprocess, sys, time
    here = pathlib.Path(__file__).parent
    how = (here / "behaviour").read_text()
    if "--help" in sys.argv:
        print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help"
              if how != "nonsense" else "Hello.")
        sys.exit(0)
    with (here / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\\n")
    engine = next(a.split("=", 1)[1] for a in sys.argv if a.startswith("--saveEngine="))
    timed = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--timingCacheFile=")), None)
    if how == "is slow":
        for layer in range(5):
            print("[I] timing layer", layer, flush=True); time.sleep(1)
    if how in ("works", "is slow"):
        pathlib.Path(engine).write_bytes(b"engine %d" % os.getpid())
        if timed is not None:
            with open(timed, "ab") as cache:
                cache.write(b"timed here;")
    elif how == "refuses":
        print("[I] a line"); print("[E] Error[4]: no importer for operator Foo"); sys.exit(1)
    elif how == "lies":
        print("it is done")
    elif how == "leaves nothing":
        pathlib.Path(engine).write_bytes(b"")
    elif how == "crashes":
        pathlib.Path(engine).write_bytes(b"half"); os.abort()
    elif how == "fills the disk":
        print("writing: No space left on device"); sys.exit(1)
    elif how == "hangs":
        child = subprocess.Popen(["sleep", "600"])
        (here / "pids").write_text(f"{{os.getpid()}} {{child.pid}}"); time.sleep(600)
"""


class StandIn:
    """The script on the path, what it shall do, and how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "trtexec"
        self.path.write_text(textwrap.dedent(STAND_IN).format(python=sys.executable))
        self.path.chmod(0o755)
        self.behave("works")

    def behave(self, how: str) -> None:
        (self.folder / "behaviour").write_text(how)

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return StandIn(folder)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph")
    return path


def build(stand_in: StandIn, onnx: Path, folder: Path, **options: Any) -> Path:
    builder = Builder(release="10.3.0", trtexec=str(stand_in.path))
    return build_engine(builder, PLAN, onnx, folder, **options)


def test_an_engine_appears_whole_with_its_record_and_log(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    home = tmp_path / "prepared" / "one"
    engine = build(stand_in, onnx, home, timing_cache=tmp_path / "timing" / "t.cache")
    assert engine == home / ENGINE
    assert {path.name for path in home.iterdir()} == {ENGINE, RECORD, LOG}
    assert [path.name for path in home.parent.iterdir()] == ["one"]
    record = json.loads((home / RECORD).read_text())
    assert record["sha256"] == sha256_of(engine)
    assert record["release"] == "10.3.0"
    [call] = stand_in.calls()
    assert f"--onnx={onnx}" in call
    assert "--stronglyTyped" in call
    assert f"--timingCacheFile={tmp_path / 'timing' / 't.cache'}" in call
    assert record["arguments"] == [str(stand_in.path), *call]


@pytest.mark.parametrize(
    ("how", "error", "telling"),
    [
        ("refuses", ToolchainError, "exit status 1.*no importer for operator Foo"),
        ("lies", ToolchainError, "left no engine file.*it is done"),
        ("leaves nothing", ToolchainError, "left no engine file"),
        ("crashes", ToolchainError, "SIGABRT"),
        ("fills the disk", StorageError, "No space left"),
    ],
)
def test_a_builder_that_fails_is_a_typed_error_and_leaves_nothing(
    how: str,
    error: type[Exception],
    telling: str,
    stand_in: StandIn,
    onnx: Path,
    tmp_path: Path,
) -> None:
    stand_in.behave(how)
    home = tmp_path / "prepared" / "one"
    with pytest.raises(error, match=telling) as caught:
        build(stand_in, onnx, home)
    assert caught.value.cause  # type: ignore[attr-defined]
    assert caught.value.remedy  # type: ignore[attr-defined]
    assert list(home.parent.iterdir()) == []


@pytest.mark.slow
def test_a_builder_that_hangs_is_ended_with_all_that_it_started(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    stand_in.behave("hangs")
    home = tmp_path / "prepared" / "one"
    with pytest.raises(ToolchainError, match="did not finish within 3 s"):
        build(stand_in, onnx, home, time_limit_s=3)
    assert list(home.parent.iterdir()) == []
    assert_gone(stand_in)


@pytest.mark.slow
def test_a_build_tells_how_it_goes_on(stand_in: StandIn, onnx: Path, tmp_path: Path) -> None:
    stand_in.behave("is slow")
    told: list[tuple[float, str]] = []
    build(stand_in, onnx, tmp_path / "one", on_words=lambda *words: told.append(words))
    assert 2 <= len(told) <= 3
    assert [seconds for seconds, _ in told] == sorted(seconds for seconds, _ in told)
    assert told[-1][1].startswith("[I] timing layer")


def test_a_builder_dies_with_whoever_waits_for_it(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    stand_in.behave("hangs")
    code = (
        "import sys; from pathlib import Path; from tests.test_tensorrt_build import *;"
        "build_engine(Builder(release='10.3.0', trtexec=sys.argv[1]), PLAN, Path(sys.argv[2]),"
        " Path(sys.argv[3]))"
    )
    arguments = [str(stand_in.path), str(onnx), str(tmp_path / "prepared" / "one")]
    waiting = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[1]
    )
    wait_until((stand_in.folder / "pids").exists)
    waiting.kill()
    waiting.wait()
    builder = int((stand_in.folder / "pids").read_text().split()[0])
    wait_until(lambda: not alive(builder))


def test_what_a_killed_build_left_is_swept_once_it_is_old(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    home = tmp_path / "prepared" / "one"
    old, young = home.parent / ".one.old", home.parent / ".one.young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    build(stand_in, onnx, home)
    assert {path.name for path in home.parent.iterdir()} == {"one", ".one.young"}


def test_a_folder_that_cannot_be_written_is_a_storage_error(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    (tmp_path / "prepared").write_text("a file is in the way")
    with pytest.raises(StorageError, match="prepared"):
        build(stand_in, onnx, tmp_path / "prepared" / "one")


def test_a_trtexec_that_does_not_tell_its_release_is_refused(stand_in: StandIn) -> None:
    stand_in.behave("nonsense")
    with pytest.raises(ToolchainError, match=r"does not say which TensorRT.*Hello"):
        find_builder()


def test_a_machine_without_tensorrt_is_told_where_engines_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine_build, "JETPACK_TRTEXEC", tmp_path / "absent")
    with pytest.raises(ToolchainError, match="this machine has no TensorRT") as caught:
        find_builder()
    assert "--system-site-packages" in caught.value.remedy


def test_jetpacks_trtexec_is_found_off_the_path(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine_build, "JETPACK_TRTEXEC", stand_in.path)
    assert find_builder() == Builder(release="10.3.0", trtexec=str(stand_in.path))


HERE = Fingerprint(
    identity={"arch": "aarch64", "soc": "nvidia,tegra234", "gpu": None, "sm": None},
    software={"os": "ubuntu 22.04", "driver": "540.4.0", "jetpack": "6.2", "runtimes": {}},
    conditions={},
)


def changed(**software: Any) -> Fingerprint:
    return Fingerprint(
        identity=HERE.identity, software={**HERE.software, **software}, conditions={}
    )


@pytest.mark.parametrize(
    ("other", "options", "builds"),
    [
        (HERE, {}, 1),
        (changed(runtimes={"onnxruntime": "1.24"}), {}, 1),  # an engine does not use it
        (changed(jetpack="7.2"), {}, 2),
        (changed(driver="570.0"), {}, 2),
        (HERE, {"builder": {"tf32": True}}, 2),
    ],
    ids=["the same", "another runtime", "JetPack", "driver", "settings"],
)
def test_an_engine_is_built_once_per_software_and_settings(
    other: Fingerprint,
    options: dict[str, Any],
    builds: int,
    stand_in: StandIn,
    onnx: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "prepared" / "digest"
    first = session.prepare(onnx, {}, SIGNATURE, HERE, folder)
    second = session.prepare(onnx, options, SIGNATURE, other, folder)
    assert (first == second) is (builds == 1)
    assert len(stand_in.calls()) == builds


def test_a_record_that_was_lost_or_a_wish_builds_anew(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prepared" / "digest"
    engine = session.prepare(onnx, {}, SIGNATURE, HERE, folder)
    content = engine.read_bytes()
    assert session.prepare(onnx, {}, SIGNATURE, HERE, folder, again=True) == engine
    assert engine.read_bytes() != content
    assert len(stand_in.calls()) == 2


def variant(tmp_path: Path, onnx: Path) -> Path:
    folder = tmp_path / "variant"
    folder.mkdir()
    (folder / onnx.name).write_bytes(onnx.read_bytes())
    record = VariantRecord(
        version=1,
        id="model/test/tensorrt-gpu-f32",
        model="model",
        target="jetson",
        profile="test",
        runtime=Runtime(format="tensorrt", at_least="10.0", below="12"),
        options={"release": "10.3.0", "sm": "8.7", "check": {}, "builder": {}},
        signature=SIGNATURE,
        files=(File(path=onnx.name, sha256=sha256_of(onnx), length=onnx.stat().st_size),),
        provenance={},
    )
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
    return folder


def test_without_the_package_an_engine_is_prepared_and_the_lack_is_named(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    folder = variant(tmp_path, onnx)
    with pytest.raises(ToolchainError, match="needs the runtime tensorrt"):
        load(folder)
    home = prepared_folder(sessions.read_record(folder))
    assert home.is_relative_to(tmp_path / "cache" / "prepared")
    assert len(list(home.glob(f"*/{ENGINE}"))) == 1  # for clients in other languages


def test_an_engine_that_does_not_load_is_built_again_once(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    record = sessions.read_record(variant(tmp_path, onnx))
    home = sessions.prepared_folder(record)
    tried: list[bytes] = []

    def refuse(times: int) -> Callable[..., Any]:
        def attempt(path: Path, options: Any, signature: Any) -> Any:
            tried.append(path.read_bytes())
            if len(tried) <= times:
                raise StaleError("TensorRT cannot load engine.plan.")
            return "a session"

        return attempt

    module = SimpleNamespace(prepare=session.prepare, load=refuse(1))
    assert sessions._load_prepared(module, onnx, {}, record, home) == "a session"
    assert len(stand_in.calls()) == 2
    assert tried[0] != tried[1]
    tried.clear()
    module.load = refuse(5)
    with pytest.raises(ToolchainError, match="built here just now"):
        sessions._load_prepared(module, onnx, {}, record, home)
    assert len(tried) == 2


def test_the_times_of_layers_are_the_medians_of_what_the_profiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session and the profiler's base class are stand-ins: no engine runs here."""
    listening: list[Any] = []
    ran = iter(range(100))

    class Session(session._Session):
        def __init__(self) -> None:
            pass

        def listen(self, listener: Any) -> None:
            listening.append(listener)

        def run(self, inputs: Any) -> dict[str, Any]:
            assert inputs == {}
            slow = next(ran) < sessions.PROFILE_WARMUP  # the first runs do not count
            listening[0].report_layer_time("conv", 100.0 if slow else 2.0)
            listening[0].report_layer_time("relu", 1.0)
            listening[0].report_layer_time("conv", 1.0)
            return {}

        def close(self) -> None:
            pass

    monkeypatch.setattr(session, "import_runtime", lambda: SimpleNamespace(IProfiler=object))
    monkeypatch.setattr(session, "load", lambda *_: Session())
    found = session.profile(tmp_path, {}, SIGNATURE, [{}], 5)
    assert [(one.name, one.engine, one.ms) for one in found] == [
        ("conv", "gpu", 3.0), ("relu", "gpu", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("array", "dtype", "kept"),
    [
        (np.array([1, 2], np.int64), np.int64, True),
        (np.array([1, -(2**31)], np.int64), np.int32, True),
        (np.array([1, 2**31], np.int64), np.int32, False),
    ],
)
def test_tensorrt_8_takes_64_bit_integers_in_32_bits_if_they_fit(
    array: Any, dtype: Any, kept: bool
) -> None:
    if kept:
        found = session.as_engine_takes(array, np.dtype(dtype), "ids")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array)
    else:
        with pytest.raises(UsageError, match=r"ids.*2147483648"):
            session.as_engine_takes(array, np.dtype(dtype), "ids")


@pytest.mark.parametrize(
    ("found", "right"),
    [(["x", "y"], True), (["y", "x"], True), (["x"], False), (["x", "y", "z"], False)],
)
def test_an_engines_names_are_held_against_the_record(found: list[str], right: bool) -> None:
    if right:
        session.check_ports(found, SIGNATURE)
    else:
        with pytest.raises(ToolchainError, match="its record says"):
            session.check_ports(found, SIGNATURE)


def test_the_fingerprint_of_this_machine_is_enough_to_name_an_engines_folder(
    stand_in: StandIn, onnx: Path, tmp_path: Path
) -> None:
    assert session.prepare(onnx, {}, SIGNATURE, fingerprint(), tmp_path / "one").is_file()


def test_cuda_copies_there_and_back_or_says_why_not() -> None:
    try:
        cuda = load_cuda()
    except ToolchainError as error:
        pytest.skip(error.what)
    stream, failure = 0, None
    try:
        stream = cuda.stream()
    except ToolchainError as error:
        failure = error
    if failure is not None:  # the runtime is here, and no GPU
        assert "cudaStreamCreate failed with" in failure.what
        assert failure.remedy
        return
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    received = np.zeros_like(sent)
    address = cuda.allocate(room_for(sent.shape, sent.dtype))
    cuda.upload(address, sent, stream)
    cuda.download(received, address, stream)
    cuda.synchronise(stream)
    cuda.free(address)
    cuda.end_stream(stream)
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [((2, 3), np.float16, 12), ((), np.float32, 4), ((0, 5), np.int64, 0), ((7,), np.bool_, 7)],
)
def test_room_is_counted_in_bytes(shape: tuple[int, ...], dtype: Any, size: int) -> None:
    assert room_for(shape, dtype) == size


def assert_gone(stand_in: StandIn) -> None:
    for pid in map(int, (stand_in.folder / "pids").read_text().split()):
        wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody reaps it, but it is dead


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
