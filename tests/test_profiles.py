"""Profiles: the shipped ones, what the reader refuses, and the order of look-up."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import profiles
from agent.errors import UsageError
from agent.identity import ISA_WORDS
from agent.manifest import Fingerprint, match
from profiles import PACKAGE_FOLDER, Profile, all_profiles, find, parse
from profiles.consistency import ARITHMETIC, LEAST_SM
from profiles.reader import ENGINES, PLATFORMS, PRECISIONS, STATUS_KEYS
from profiles.toml_text import toml_key, toml_value
from sdk.detect import profile_toml
from targets import interface, target_names

SCHEMA = json.loads(
    (Path(__file__).parent.parent / "sdk/schemas/profile.schema.json").read_text(encoding="utf-8")
)
SHIPPED = sorted(PACKAGE_FOLDER.glob("*/*.toml"))
GOOD = """
name = "board"
target = "intel"
title = "A board"
arch = "x86_64"
isa = { value = ["avx2", "fma"], complete = true, source = "its data sheet" }
cores = { value = 4, source = "its data sheet" }
memory_bytes = { value = 8589934592, source = "its data sheet" }
bandwidth_gb_s = { value = 38.4, source = "derived: one channel of DDR5-4800" }
sm = { value = "7.5", source = "its data sheet" }

[engines.cpu]
title = "4 small cores"
[engines.cpu.peak]
f32 = { value = 100, source = "measured, 2026-11-01" }

[engines.gpu]
title = "a small GPU"
precisions = { value = ["f32", "f16", "int8"], source = "its data sheet" }
[engines.gpu.peak]
f16 = { value = 1000, source = "its data sheet" }

[software."Linux, 2026"]
python = "3.11"
runtimes = { openvino = "2026.4.1" }
source = "its image"

[power_modes.15W]
cores = 2
gpu_mhz = 600
watts = 15.5
source = "its manual"

[fitted.openvino.cpu]
ms = { request = 0.01, "conv.f32.gflop" = 12.5, "norm.f32.mb" = 0 }
kinds = ["f32 plain", "int8 nncf"]
rows = 800
held_out = 60
error = 0.11
low = 0.8
high = 1.25
date = "2026-11-21"
device = "ab12"
tools = { openvino = "2026.4.1" }

[status]
compiled = "not tried"
emulated = "not tried"
measured = "not tried"

[match]
"identity.arch" = "x86_64"
"identity.isa" = { has = ["avx2"] }
"software.runtimes.openvino" = { min = "2026.1", below = "2027" }
"""


def _validate(text: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(tomllib.loads(text))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_profile_is_read_and_fits_its_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    _validate(text)
    profile = find(file.stem, ())
    assert profile.origin == "package"
    assert profile.target == file.parent.name
    assert set(profile.status) == set(STATUS_KEYS)
    assert not re.search(r"\[(U|D|M|[A-Z][A-Z0-9-]{2,8})\]", text), "our own source tags leaked"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_figure_that_ships_says_where_it_comes_from(file: Path) -> None:
    def sourced(value: Any) -> bool:
        if isinstance(value, dict) and "value" in value:
            return len(value["source"]) > 15
        return not isinstance(value, dict) or all(map(sourced, value.values()))

    document = tomllib.loads(file.read_text(encoding="utf-8"))
    assert sourced({key: value for key, value in document.items() if key != "match"})


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_no_source_is_a_guess(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    sources = re.findall(r'source = "(.+?)"', text)
    assert len(sources) == text.count("source =") >= 1
    guess = (
        r"\b(unsourced|general knowledge|guess\w*|probably|assum\w+|roughly|about|around|likely)\b"
    )
    assert [source for source in sources if re.search(guess, source)] == []


CARDS_AND_JETSONS = [p for p in all_profiles(()).values() if p.target in ("jetson", "server-gpu")]


@pytest.mark.parametrize("profile", CARDS_AND_JETSONS, ids=lambda profile: profile.name)
def test_peaks_are_dense_so_half_the_width_is_twice_the_rate(profile: Profile) -> None:
    peak = {key: figure.value for key, figure in profile.engines["gpu"].peak.items()}
    halves = [("int8", "f16"), ("f16", "tf32"), ("fp4", "fp8")]
    if profile.name == "rtx-4090":  # its tensor cores sum tf32 products in f32 alone, at half rate
        halves.remove(("f16", "tf32"))
    for narrow, wide in halves:
        if narrow in peak and wide in peak:
            assert peak[narrow] / peak[wide] == pytest.approx(2, rel=0.01), narrow
    if "fp8" in peak:
        assert peak["fp8"] == peak["int8"]
    if profile.sm == "7.5":
        assert not {"tf32", "bf16", "fp8", "fp4"} & set(profile.engines["gpu"].precisions)


MARKETING = [
    # NVIDIA's sparse int8 TOPS of the whole module
    ("jetson-orin-nano-super", 67),
    ("jetson-orin-nx-16gb", 100),
    ("jetson-agx-orin-64gb", 275),
]


@pytest.mark.parametrize(("name", "sparse_tops"), MARKETING)
def test_a_modules_engines_make_half_of_its_sparse_sum(name: str, sparse_tops: float) -> None:
    engines = find(name, ()).engines.values()
    dense = sum(engine.peak["int8"].value for engine in engines if "int8" in engine.peak)
    assert dense == pytest.approx(sparse_tops * 1000 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tensorrt", "onnxruntime"),
    [
        ("jetson-orin-nano-super", "10.3.0", "1.23.2"),
        ("jetson-orin-nx-16gb", "10.3.0", "1.23.2"),
        ("jetson-agx-orin-64gb", "10.3.0", "1.23.2"),
        ("jetson-agx-thor", "10.13", "1.31.1"),
        ("l4", None, None),
    ],
)
def test_the_oldest_stack_caps_a_build(
    name: str, tensorrt: str | None, onnxruntime: str | None
) -> None:
    profile = find(name, ())
    assert profile.oldest("tensorrt") == tensorrt
    assert profile.oldest("onnxruntime") == onnxruntime
    for stack in profile.software.values():
        # ONNX Runtime 1.23.2 is the newest with wheels for Python 3.10.
        assert (stack.python == "3.10") is (stack.runtimes["onnxruntime"] == "1.23.2")


@pytest.mark.parametrize("profile", CARDS_AND_JETSONS, ids=lambda profile: profile.name)
def test_power_modes_peak_in_the_mode_with_the_highest_clock(profile: Profile) -> None:
    clocks = {mode.name: mode.gpu_mhz for mode in profile.power_modes.values()}
    if not clocks:
        return
    fastest = max(clocks, key=lambda name: clocks[name] or 0)
    assert fastest.startswith("MAXN")
    cuda_cores = int(re.findall(r"(\d+) CUDA cores", profile.engines["gpu"].title)[0])
    gflop_s = cuda_cores * 2 * (clocks[fastest] or 0) / 1000
    assert profile.engines["gpu"].peak["f32"].value == pytest.approx(gflop_s, rel=0.01)


def test_the_reference_shows_a_profile_that_is_one() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/profiles.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.+?)```", page, re.DOTALL)
    profile = parse(example, "docs/reference/profiles.md")
    _validate(example)
    assert set(profile.engines) == {"cpu", "gpu"}
    assert profile.software
    assert profile.power_modes


def test_shipped_names_are_unique_across_targets() -> None:
    assert len({file.stem for file in SHIPPED}) == len(SHIPPED) > 22
    assert set(all_profiles(())) == {file.stem for file in SHIPPED}


def test_each_target_has_its_default_profile() -> None:
    from targets import target

    for name in target_names():
        assert find(target(name).DEFAULT_PROFILE, ()).target == name


def test_a_good_profile_has_all_its_facts() -> None:
    profile = parse(GOOD, "board.toml")
    assert (profile.arch, profile.isa, profile.cores) == ("x86_64", ("avx2", "fma"), 4)
    assert profile.platform == "linux"
    assert profile.memory_bytes == 8 << 30
    assert profile.bandwidth_gb_s == profiles.Figure(
        value=38.4, source="derived: one channel of DDR5-4800"
    )
    assert profile.engines["cpu"].peak["f32"].value == 100.0
    assert profile.engines["gpu"].precisions == ("f32", "f16", "int8")
    assert profile.sources["cores"] == profile.sources["sm"] == "its data sheet"
    assert profile.isa_class == ("x86_64", "avx2", "none", "7.5")
    stack = profile.software["Linux, 2026"]
    assert (stack.python, stack.runtimes) == ("3.11", {"openvino": "2026.4.1"})
    mode = profile.power_modes["15W"]
    assert (mode.cores, mode.gpu_mhz, mode.cpu_mhz, mode.watts) == (2, 600, None, 15.5)
    (fitted,) = profile.fitted
    assert (fitted.toolchain, fitted.engine, fitted.rows) == ("openvino", "cpu", 800)
    assert fitted.ms == {"request": 0.01, "conv.f32.gflop": 12.5, "norm.f32.mb": 0.0}
    assert (fitted.kinds, fitted.low, fitted.high) == (("f32 plain", "int8 nncf"), 0.8, 1.25)
    _validate(GOOD)


WRONG = [
    # what it is, old text, new text, key path, what the message offers
    ("an unknown key", 'title = "A board"', 'titel = "A board"', "titel", "'title'"),
    ("a word near a known one", '"avx2", "fma"', '"avx2", "fna"', "isa.value[1]", "'fma'"),
    ("a flag of another architecture", '"fma"', '"dotprod"', "isa.value[1]", "known are"),
    ("an unknown architecture", 'arch = "x86_64"', 'arch = "x86-64"', "arch", "'x86_64'"),
    ("an unknown engine", "[engines.cpu]", "[engines.cpus]", "engines.cpus", "'cpu'"),
    ("an unknown precision", "f32 = {", "fp32 = {", "engines.cpu.peak.fp32", "'f32'"),
    ("a status that is not one", "compiled =", "compild =", "status.compild", "'compiled'"),
    ("a status that is missing", 'measured = "not tried"', "", "status.measured", "missing"),
    ("a missing key", 'target = "intel"', "", "target", "missing"),
    ("a bare number", "{ value = 38.4, source =", "38.4 # {", "bandwidth_gb_s", "source"),
    ("no source", ', source = "measured, 2026-11-01"', "", "peak.f32.source", "missing"),
    ("an empty source", '"measured, 2026-11-01"', '" "', "engines.cpu.peak.f32.source", "empty"),
    ("no cores", "cores = { value = 4", "cores = { value = 0", "cores.value", "above 0"),
    ("half a core", "cores = { value = 4", "cores = { value = 4.5", "cores.value", "integer"),
    ("an infinite rate", "value = 100,", "value = inf,", "engines.cpu.peak.f32.value", "above 0"),
    ("a rate beyond all numbers", "value = 100,", f"value = 1{'0' * 400},", "f32.value", "above 0"),
    ("the reserved name", 'name = "board"', 'name = "host"', "name", "host"),
    ("a path as a name", 'name = "board"', 'name = "../board"', "name", "lower-case"),
    ("a path without quotes", '"identity.arch" =', "identity.arch =", "match.identity", "Quote"),
    ("an unknown path", '"identity.arch"', '"identity.arc"', "match.identity.arc", "identity.arch"),
    ("an unknown operator", "min = ", "mni = ", "match.software.runtimes.openvino.mni", "'min'"),
    ("a runtime without a name", 'runtimes.openvino"', 'runtimes."', "software.runtimes.", "known"),
    ("a list where has is needed", '{ has = ["avx2"] }', '["avx2"]', "match.identity.isa", "has"),
    ("a condition of another type", '"identity.arch" = "x86_64"', '"identity.arch" = 1', "match.identity.arch", "a string"),
    ("no architecture at all", '"identity.arch" = "x86_64"', '"identity.arch" = []', "match.identity.arch", "a list with a value"),
    ("an architecture without a name", '"identity.arch" = "x86_64"', '"identity.arch" = ["x86_64", " "]', "match.identity.arch", "a string"),
    ("another arch", '"identity.arch" = "x86_64"', '"identity.arch" = "aarch64"', "arch is", ""),
    ("a flag it does not have", 'has = ["avx2"]', 'has = ["avx512f"]', "isa lists no avx512f", ""),
    ("a rate its CPU cannot have", "f32 = {", "bf16 = {", "peak.bf16", "avx512_bf16"),
    ("f16 without the flag", "f32 = {", "f16 = {", "peak.f16", "avx512_fp16"),
    ("not TOML", "[match]", "[match", "is not TOML", ""),
    ("a bound that is a list", '{ min = "2026.1", below', '{ min = ["2026.1"], below', "match.software.runtimes.openvino.min", "one"),
    ("a precision that does not exist", '["f32", "f16", "int8"]', '["f32", "int9"]', "gpu.precisions.value", "'int8'"),
    ("no precision at all", '["f32", "f16", "int8"]', "[]", "engines.gpu.precisions.value", "a list"),
    ("precisions without a source", '"int8"], source = "its data sheet"', '"int8"]', "precisions.source", "missing"),
    ("a rate outside its precisions", "f16 = { value = 1000", "int4 = { value = 1000", "peak.int4", "known are"),
    ("a rate that is not among precisions", '"f16", "int8"]', '"int8"]', "engines.gpu.peak.f16", "precisions are f32, int8"),
    ("bf16 on a GPU before it", '["f32", "f16", "int8"]', '["f32", "f16", "bf16"]', "engines.gpu.precisions", "from compute capability 8.0"),
    ("a capability that is a number", '"7.5"', "7.5", "sm.value", '"8.7"'),
    ("a Python that is no version", '"3.11"', '"python3.11"', "software.Linux, 2026.python", '"3.10"'),
    ("a whole Python", '"3.11"', '"3.11.2"', "software.Linux, 2026.python", '"3.10"'),
    ("a runtime that is no version", '"2026.4.1"', '"newest"', "runtimes.openvino", "a version"),
    ("a stack without a source", 'source = "its image"', "", "software.Linux, 2026.source", "missing"),
    ("a stack without runtimes", 'runtimes = { openvino = "2026.4.1" }', "", "software.Linux, 2026.runtimes", "missing"),
    ("the runtimes of old", "[power_modes.15W]", "[runtimes]", "runtimes", "known are"),
    ("a mode without a source", 'source = "its manual"', "", "power_modes.15W.source", "missing"),
    ("a mode with more cores", "cores = 2", "cores = 5", "power_modes.15W.cores", "cores is 4"),
    ("a mode with half a core", "cores = 2", "cores = 2.5", "power_modes.15W.cores", "a whole number"),
    ("a clock of nothing", "gpu_mhz = 600", "gpu_mhz = 0", "power_modes.15W.gpu_mhz", "above 0"),
    ("a clock in GHz", "gpu_mhz = 600", "gpu_ghz = 0.6", "power_modes.15W.gpu_ghz", "'gpu_mhz'"),
    ("a power that is no number", "watts = 15.5", "watts = nan", "power_modes.15W.watts", "above 0"),
    ("a fit of an engine that is not there", "[fitted.openvino.cpu", "[fitted.openvino.npu", "fitted.openvino.npu", "engines.npu"),
    ("a fit of no engine", "[fitted.openvino.cpu", "[fitted.openvino.tpu", "fitted.openvino.tpu", "'npu'"),
    ("a coefficient below 0", "request = 0.01", "request = -0.01", "cpu.ms.request", "from 0 on"),
    ("a coefficient that is no number", "request = 0.01", "request = nan", "cpu.ms.request", "from 0 on"),
    ("a fit from nothing", "rows = 800", "rows = 0", "fitted.openvino.cpu.rows", "above 0"),
    ("a fit that was never judged", "held_out = 60", "", "fitted.openvino.cpu.held_out", "missing"),
    ("an interval upside down", "low = 0.8", "low = 1.8", "fitted.openvino.cpu.low", "high is 1.25"),
    ("an interval from 0", "low = 0.8", "low = 0", "fitted.openvino.cpu.low", "a number from"),
    ("a fit of no recipe", '["f32 plain", "int8 nncf"]', "[]", "fitted.openvino.cpu.kinds", "a list"),
    ("a fit without a date", 'date = "2026-11-21"', "", "fitted.openvino.cpu.date", "missing"),
    ("a word near a fit's", "error = 0.11", "eror = 0.11", "fitted.openvino.cpu.eror", "'error'"),
    ("a card with flags", "cores = { value = 4", "# {", "isa", "but cores is not"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "path", "offer"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_a_wrong_profile_is_refused_with_its_file_and_key(
    old: str, new: str, path: str, offer: str
) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        parse(GOOD.replace(old, new, 1), "somewhere/board.toml")
    assert str(caught.value).startswith("somewhere/board.toml")
    assert path in caught.value.what
    assert offer in str(caught.value)
    assert caught.value.cause
    assert caught.value.remedy


def test_a_fit_whose_coefficients_are_all_0_is_refused() -> None:
    zeros = GOOD.replace("request = 0.01", "request = 0").replace("= 12.5", "= 0")
    with pytest.raises(UsageError, match=r"fitted\.openvino\.cpu\.ms has no coefficient above 0"):
        parse(zeros, "board.toml")


def test_a_compute_capability_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sm is given, but there is no engines\.gpu"):
        parse(GOOD.replace("[engines.gpu", "[engines.npu"), "board.toml")


MEMORY = [
    ("an empty range", "{ min = 10, below = 10 }", "no number"),
    ("more than it has", "{ min = 17179869184 }", "memory_bytes is 8589934592"),
]
SM = [
    ("another capability", '"8.7"', "sm is '7.5'"),
    ("none of the capabilities", '["8.6", "8.7"]', "sm is '7.5'"),
    ("a newer capability", '{ min = "8.0" }', "sm is '7.5'"),
]
UNMET = [
    *((name, f'"identity.memory_bytes" = {text}', why) for name, text, why in MEMORY),
    *((name, f'"identity.sm" = {text}', why) for name, text, why in SM),
    ("no number of cores", '"identity.cores" = { min = 8, below = 4 }', "no number"),
]


@pytest.mark.parametrize(
    ("condition", "why"), [case[1:] for case in UNMET], ids=[case[0] for case in UNMET]
)
def test_a_condition_that_no_device_meets_is_refused(condition: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(f"{GOOD}{condition}\n", "board.toml")


CARD = """
name = "card"
target = "server-gpu"
title = "A card"
arch = "x86_64"
memory_bytes = { value = 17179869184, source = "its data sheet" }
sm = { value = "8.9", source = "its data sheet" }

[engines.cpu]
title = "any"

[engines.gpu]
title = "the card"
[engines.gpu.peak]
fp8 = { value = 100, source = "its data sheet" }

[status]
compiled = "not tried"
emulated = "not tried"
measured = "not tried"

[match]
"identity.gpu" = "Card"
"identity.memory_bytes" = { min = 34359738368 }
"""
CARDS = [
    # what it is, old text, new text, key path, what the message offers
    ("fp8 before it", '"8.9"', '"8.6"', "engines.gpu.peak.fp8", "from compute capability 8.9"),
    ("fp4 before it", "fp8 = {", "fp4 = {", "engines.gpu.peak.fp4", "from compute capability 10.0"),
    ("a rate of its host", "[engines.cpu]", '[engines.cpu.peak]\nf32 = { value = 1, source = "x" }\n[engines.cpu]', "engines.cpu.peak", "its host can be any"),
    ("cores of its host", "[status]", '[power_modes.MAX]\ncores = 2\nsource = "x"\n[status]', "power_modes.MAX.cores", "Add cores"),
    ("a host without a card", "[engines.gpu", "[engines.npu", "cores is missing", "Only a card"),
]  # fmt: skip


def test_a_card_has_any_host_so_its_memory_is_not_its_hosts() -> None:
    card = parse(CARD, "card.toml")
    assert card.cores is None
    assert card.memory_bytes == 16 << 30
    assert card.match["identity.memory_bytes"] == {"min": 32 << 30}
    _validate(CARD)


@pytest.mark.parametrize(
    ("old", "new", "path", "offer"), [case[1:] for case in CARDS], ids=[case[0] for case in CARDS]
)
def test_a_card_that_contradicts_itself_is_refused(
    old: str, new: str, path: str, offer: str
) -> None:
    assert old in CARD
    with pytest.raises(UsageError) as caught:
        parse(CARD.replace(old, new), "card.toml")
    assert path in caught.value.what
    assert offer in str(caught.value)


def test_an_empty_match_is_refused_because_it_fits_every_device() -> None:
    with pytest.raises(UsageError, match="fits every device"):
        parse(GOOD[: GOOD.index("[match]")] + "[match]\n", "board.toml")


def test_a_rate_that_an_open_list_of_flags_leaves_possible_is_kept() -> None:
    text = GOOD.replace("complete = true", "complete = false").replace("f32 = {", "bf16 = {", 1)
    assert "bf16" in parse(text, "board.toml").engines["cpu"].peak


@pytest.mark.parametrize(
    ("arch", "isa", "complete", "known"),
    [
        ("x86_64", ["avx2"], True, True),
        ("x86_64", ["avx2"], False, False),
        ("x86_64", ["avx2", "avx_vnni"], False, False),
        ("x86_64", ["avx512_vnni", "amx_int8"], False, True),
        ("aarch64", [], False, False),
        ("aarch64", ["dotprod"], False, False),
        ("aarch64", ["i8mm"], False, True),
    ],
)
def test_the_isa_class_is_known_only_if_no_further_flag_could_change_it(
    arch: str, isa: list[str], complete: bool, known: bool
) -> None:
    profile = Profile(
        name="x", target="intel", title="x", match={}, arch=arch, isa=tuple(isa),
        isa_complete=complete, cores=1, memory_bytes=None, bandwidth_gb_s=None, engines={},
        status={},
    )  # fmt: skip
    assert (profile.isa_class is not None) is known


def _write(folder: Path, name: str, title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = GOOD.replace('"board"', f'"{name}"').replace("A board", title)
    (folder / f"{name}.toml").write_text(text)


def test_the_project_comes_before_the_user_and_the_user_before_the_package(tmp_path: Path) -> None:
    project, user = tmp_path / "project", tmp_path / "user"
    _write(user, "core-ultra-155h", "the user's")
    assert find("core-ultra-155h", (project, user)).title == "the user's"
    _write(project / "intel", "core-ultra-155h", "the project's")
    found = find("core-ultra-155h", (project, user))
    assert found.title == "the project's"
    assert found.origin == str(project / "intel" / "core-ultra-155h.toml")
    assert all_profiles((project, user))["core-ultra-155h"] == found


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    _write(tmp_path, "my-board", "mine")
    with pytest.raises(UsageError) as caught:
        find("my-bord", (tmp_path,))
    assert "core-ultra-155h" in caught.value.what
    assert "'my-board'" in caught.value.cause


def test_one_name_twice_in_one_folder_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "intel", "twin", "one")
    _write(tmp_path / "mobile", "twin", "two")
    with pytest.raises(UsageError, match="twice"):
        find("twin", (tmp_path,))


def test_a_file_that_is_called_otherwise_than_its_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(GOOD)
    with pytest.raises(UsageError, match=re.escape("board.toml")):
        find("other", (tmp_path,))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text file"):
        find("binary", (tmp_path,))


def test_a_broken_profile_disturbs_only_those_who_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("= nothing")
    assert find("a17-pro", (tmp_path,)).platform == "ios"


def test_the_schema_and_the_reader_know_the_same_words() -> None:
    properties = SCHEMA["properties"]
    assert tuple(properties["platform"]["enum"]) == PLATFORMS
    assert tuple(properties["arch"]["enum"]) == tuple(ISA_WORDS)
    words = {word for known in ISA_WORDS.values() for word in known}
    assert set(properties["isa"]["properties"]["value"]["items"]["enum"]) == words
    assert tuple(properties["engines"]["properties"]) == ENGINES
    peaks = SCHEMA["$defs"]["engine"]["properties"]["peak"]["properties"]
    precisions = SCHEMA["$defs"]["engine"]["properties"]["precisions"]["properties"]["value"]
    assert tuple(peaks) == tuple(precisions["items"]["enum"]) == PRECISIONS
    # tf32 is a way to compute f32, so a rate may be told for it and no recipe names it. int4 is a
    # way to store weights, so it has no rate.
    assert set(PRECISIONS) - {"tf32"} == set(interface.PRECISIONS) - {"int4"}
    assert set(ARITHMETIC) | set(LEAST_SM) < set(PRECISIONS)
    assert all(set(flags) <= words for flags in ARITHMETIC.values())


def test_the_xeon_fits_a_device_that_is_one_and_no_other() -> None:
    predicate = find("xeon-sapphire-rapids", ()).match
    isa = ["amx_bf16", "amx_int8", "avx2", "avx512_vnni", "avx512f"]
    soc = "Intel(R) Xeon(R) Platinum 8480+"
    identity = {"arch": "x86_64", "soc": soc, "isa": isa, "cores": 112}
    assert match(predicate, Fingerprint(identity=identity, software={}, conditions={}))
    slice_of_it = {**identity, "cores": 2}
    assert not match(predicate, Fingerprint(identity=slice_of_it, software={}, conditions={}))
    masked = {**identity, "isa": ["avx2", "avx512f"]}
    assert not match(predicate, Fingerprint(identity=masked, software={}, conditions={}))


_leaves = (
    st.booleans()
    | st.integers(-5, 1 << 70)
    | st.floats()
    | st.sampled_from(["", " ", "x86_64", "f16", "fp8", "7.5", "11.0", "3.10", "1.0", "\x00"])
)
_anything = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["value", "source", "min", "below", "has", "cpu", "gpu", "f16", "x.y"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@st.composite
def _spoilt(draw: st.DrawFn) -> str:
    """A good profile with one thing in it replaced, removed or added."""
    document = tomllib.loads(draw(st.sampled_from([GOOD, CARD])))
    table: dict[str, Any] = document
    while True:
        key = draw(st.sampled_from([*sorted(table), "new", *sorted(SCHEMA["properties"])]))
        deeper = table.get(key)
        if not isinstance(deeper, dict) or not deeper or draw(st.booleans()):
            break
        table = deeper
    if draw(st.booleans()) and key in table:
        del table[key]
    else:
        table[key] = draw(_anything)
    return "\n".join(f"{toml_key(key)} = {toml_value(value)}" for key, value in document.items())


@settings(max_examples=200)
@given(_spoilt())
def test_whatever_stands_in_a_profile_is_read_or_refused(text: str) -> None:
    try:
        profile = parse(text, "spoilt.toml")
    except UsageError as refusal:
        said = refusal.what
    else:
        said = "spoilt.toml: read"
        assert parse(profile_toml(profile), "spoilt.toml") == profile
        _validate(text)
    assert said.startswith("spoilt.toml: ")
