"""sdk.toml: what is accepted, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import UsageError
from sdk.project_reader import load_project

GOOD = """
[model]
name = "net"
source = "model.py:make"
[[inputs]]
name = "x"
dtype = "float32"
shape = ["batch", 3]
[dims]
batch = { min = 1, opt = 2, max = 4 }
[data]
samples = "data.py:samples"
metric = "top1"
[limits]
accuracy_drop = 0.01
latency_p90_ms = 8
[limits.intel]
latency_p90_ms = 5
[limits.host]
latency_p90_ms = 3
[limits.core-ultra-155h]
size_mib = 4
[build]
targets = ["intel"]
profiles = { intel = ["host"] }
[toolchain.openvino]
time_limit_s = 60
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text("")
    (tmp_path / "data.py").write_text("")
    (tmp_path / "sdk.toml").write_text(GOOD)
    return tmp_path


def test_a_good_project_is_read(folder: Path) -> None:
    project = load_project(folder)
    assert project.model.name == "net"
    assert project.inputs[0].shape == ("batch", 3)
    assert project.dims == {"batch": (1, 2, 4)}
    assert project.data is not None
    assert project.data.metric == "top1"
    assert project.data.labels_may_leave is False
    assert project.settings_for("openvino").time_limit_s == 60
    assert project.settings_for("executorch").memory_limit_mib is None


@pytest.mark.parametrize(
    ("target", "profile", "expected"),
    [
        ("mobile", "a17-pro", {"accuracy_drop": 0.01, "latency_p90_ms": 8.0}),
        ("intel", "xeon", {"accuracy_drop": 0.01, "latency_p90_ms": 5.0}),
        ("intel", "intel-host", {"accuracy_drop": 0.01, "latency_p90_ms": 3.0}),
        (
            "intel",
            "core-ultra-155h",
            {"accuracy_drop": 0.01, "latency_p90_ms": 5.0, "size_mib": 4.0},
        ),
    ],
)
def test_the_narrower_scope_of_a_limit_wins(
    folder: Path, target: str, profile: str, expected: dict[str, float]
) -> None:
    assert load_project(folder).limits_for(target, profile) == expected


MISTAKES = {
    "an unknown section": ("[model]", "[modle]\na = 1\n[model]", "Did you mean 'model'?"),
    "an unknown key": ('metric = "top1"', 'metrc = "top1"', "Did you mean 'metric'?"),
    "an unknown target": ('targets = ["intel"]', 'targets = ["intle"]', "Did you mean 'intel'?"),
    "an unknown limit": ("accuracy_drop = 0.01", "acuracy_drop = 0.01", "'accuracy_drop'"),
    "an unknown scope": ("[limits.intel]", "[limits.inetl]", "Did you mean 'intel'?"),
    "an unknown metric": ('"top1"', '"topp1"', "data.metric is wrong: there is no metric 'topp1'; known are"),
    "an unknown dtype": ('"float32"', '"float23"', "Did you mean 'float32'?"),
    "an unknown dim": ('["batch", 3]', '["bach", 3]', "Did you mean 'batch'?"),
    "an unknown toolchain": ("[toolchain.openvino]", "[toolchain.openvin]", "'openvino'"),
    "dims that do not rise": ("opt = 2, max = 4", "opt = 5, max = 4", "min 1, opt 5, max 4"),
    "a dim of zero": ("min = 1,", "min = 0,", "positive integer"),
    "a limit that is a string": ("latency_p90_ms = 5", 'latency_p90_ms = "5"', "but is '5'"),
    "a drop in percent": ("accuracy_drop = 0.01", "accuracy_drop = 2", "a fraction from 0 to 1"),
    "a limit that is infinite": ("size_mib = 4", "size_mib = inf", "but is inf"),
    "a name with spaces": ('"net"', '"my net"', "lower-case letters"),
    "a path in the name": ('"net"', '"../net"', "lower-case letters"),
    "a source without function": ('"model.py:make"', '"model.py"', "'file.py:function'"),
    "a source that is missing": ('"model.py:make"', '"nodel.py:make"', "is not there"),
    "a table that is a string": ("[dims]\nbatch = { min = 1, opt = 2, max = 4 }", "", "dim"),
    "a shape of floats": ('["batch", 3]', '["batch", 3.0]', "a positive integer"),
    "direction against the metric": ('metric = "top1"', 'metric = "top1"\nhigher_is_better = false', "Remove the key"),
    "metric and score": ('metric = "top1"', 'metric = "top1"\nscore = "data.py:score"', "Keep one"),
    "a pickle": ('source = "model.py:make"', 'source = "model.py:make"\ncheckpoint = "w.pt"', "run code when they are read"),
    "a missing checkpoint": ('source = "model.py:make"', 'source = "model.py:make"\ncheckpoint = "w.safetensors"', "is not there"),
    "no inputs": ('[[inputs]]\nname = "x"\ndtype = "float32"\nshape = ["batch", 3]', "", "inputs is missing"),
    "not TOML": ("[model]", "[model", "is not TOML"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "answer"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_file_and_remedy(
    folder: Path, old: str, new: str, answer: str
) -> None:
    assert old in GOOD
    (folder / "sdk.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError) as found:
        load_project(folder)
    assert answer in str(found.value)
    assert str(folder / "sdk.toml") in found.value.what
    assert found.value.cause
    assert found.value.remedy
    assert found.value.exit_code == 2


def test_a_missing_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sdk init"):
        load_project(tmp_path)


def test_a_binary_file_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "sdk.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_project(tmp_path)
