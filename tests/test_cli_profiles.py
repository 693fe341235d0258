"""`sdk profiles`: drawn for a person, printed as a file, and a user's own file checked."""

from __future__ import annotations

import dataclasses
import io
import json
import platform
import re
from pathlib import Path

import pytest
from rich.console import Console

from profiles import Profile, all_profiles, find, parse
from sdk.cli.app import run
from sdk.report.predicates import in_words, size
from sdk.report.profiles import drawing, rate
from tests.test_profiles import GOOD

SHIPPED = all_profiles(())


def _drawn(profile: Profile, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(drawing(profile))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _sources(profile: Profile) -> set[str]:
    figures = [f for engine in profile.engines.values() for f in engine.peak.values()]
    figures += [profile.bandwidth_gb_s] if profile.bandwidth_gb_s else []
    told = [*profile.software.values(), *profile.power_modes.values()]
    return {entry.source for entry in (*figures, *told)} | set(profile.sources.values())


@pytest.mark.parametrize("profile", SHIPPED.values(), ids=SHIPPED)
def test_every_figure_of_a_drawn_profile_has_its_source_as_a_footnote(profile: Profile) -> None:
    body, _, notes = _drawn(profile).partition("\nsources\n")
    used = {int(number) for number in re.findall(r"\[(\d+)\]", body)}
    listed = [int(number) for number in re.findall(r"^\[(\d+)\]", notes, re.MULTILINE)]
    assert listed == sorted(used) == list(range(1, len(used) + 1))
    written = "".join(notes.split())
    assert all("".join(source.split()) in written for source in _sources(profile))
    assert profile.title in " ".join(body.split())
    assert "…" not in body


def test_a_drawn_profile_tells_engines_software_modes_and_match() -> None:
    text = _drawn(find("jetson-agx-orin-64gb", ()), width=120)
    for part in (
        *("204.8 GB/s", "64 GiB", "8.7", "284 GFLOP/s", "42.5 TFLOP/s", "85 TOPS", "52.5 TOPS"),
        *("JetPack 7.2", "tensorrt 10.16.2.10", "3.10", "MAXN", "1300", "yes, no rate"),
        *("the chip is nvidia,tegra234", "the memory is at least 48 GiB and less than 68 GiB"),
        *("measured  not tried", "none told; there may be more"),
    ):
        assert part in text
    row = next(line for line in text.splitlines() if line.startswith("bf16"))
    assert "no [" in row, "a DLA has no bf16"


def test_a_card_has_any_host() -> None:
    text = _drawn(find("l4", ()))
    assert "any: this is a card" in text
    assert "flags" not in text


def test_markup_in_a_profile_is_text() -> None:
    profile = dataclasses.replace(find("n100", ()), title="a [red]board[/red] [/]")
    assert "a [red]board[/red] [/]" in _drawn(profile)


@pytest.mark.parametrize(
    ("precision", "gflop_s", "expected"),
    [
        ("f32", 120, "120 GFLOP/s"),
        ("int8", 372, "372 GOPS"),
        ("f16", 999.9, "1000 GFLOP/s"),
        ("f16", 1000, "1 TFLOP/s"),
        ("fp4", 1_035_000, "1035 TFLOP/s"),
        ("int8", 33_500, "33.5 TOPS"),
    ],
)
def test_a_rate_is_in_the_unit_that_a_person_reads(
    precision: str, gflop_s: float, expected: str
) -> None:
    assert rate(precision, gflop_s) == expected


def test_an_amount_of_memory_is_in_gib() -> None:
    assert [size(8 << 30), size(7802336 << 10), size(None)] == ["8 GiB", "7.44 GiB", "-"]


WORDS = [
    ({"identity.soc": "a"}, "the chip is a"),
    ({"identity.soc": ["a", "b"]}, "the chip is a or b"),
    ({"identity.isa": {"has": ["avx2", "fma"]}}, "the CPU's flags include avx2, fma"),
    ({"identity.isa": {"has": "avx2"}}, "the CPU's flags include avx2"),
    ({"identity.cores": {"min": 4}}, "the number of processors is at least 4"),
    ({"identity.memory_bytes": 8 << 30}, "the memory is 8 GiB"),
    ({"identity.emulated": False}, "being emulated is no"),
    ({"software.jetpack": {"min": "6", "below": "7"}}, "JetPack is at least 6 and less than 7"),
    ({"software.runtimes.a.b": "1"}, "a.b is 1"),
    ({"conditions.power_mode": "MAXN"}, "the power mode is MAXN"),
]


@pytest.mark.parametrize(("predicate", "expected"), WORDS, ids=[case[1] for case in WORDS])
def test_a_predicate_is_told_in_words(predicate: dict[str, object], expected: str) -> None:
    assert in_words(predicate) == [expected]


def test_show_draws_and_prints_the_file_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "show", "t4"]) == 0
    assert "65.1 TFLOP/s" in capsys.readouterr().out
    assert run(["profiles", "show", "t4", "--toml"]) == 0
    again = parse(capsys.readouterr().out, "t4.toml")
    assert dataclasses.replace(again, origin="package") == find("t4", ())
    assert run(["profiles", "show", "t4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"]["gpu"]["peak"]["f16"]["value"] == 65100


@pytest.mark.slow
def test_host_is_no_intel_machine_on_arm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for arguments in (["show", "host"], ["show", "linux-arm-host"], ["detect"]):
        assert run(["profiles", *arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["name"], found["target"]) == ("linux-arm-host", "linux-arm")


def test_a_profile_of_ones_own_may_end_in_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiles").mkdir()
    own = GOOD.replace('name = "', 'name = "edge-host" # ', 1)
    (tmp_path / "profiles" / "edge-host.toml").write_text(own, encoding="utf-8")
    assert run(["profiles", "show", "edge-host", "--project", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "edge-host"


def test_list_tells_target_name_title_memory_and_evidence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["profiles", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (orin,) = (line for line in lines if "jetson-orin-nano-super" in line)
    assert re.match(r"jetson +jetson-orin-nano-super +NVIDIA .+ 8 GiB +nothing", orin)
    assert any("two micro-benchmarks" in line for line in lines)
    assert run(["profiles", "list", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(found) == set(SHIPPED)
    assert found["l4"]["memory_bytes"] == 24 << 30
    assert found["l4"]["status"]["measured"] == "not tried"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


def _write(folder: Path, name: str = "board", text: str = GOOD) -> str:
    file = folder / f"{name}.toml"
    file.write_text(text.replace('name = "board"', f'name = "{name}"'))
    return str(file)


def test_a_good_file_is_ok(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _write(folder)
    assert run(["profiles", "check", file, file]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"


def test_a_wrong_file_has_code_2_and_names_file_and_key(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = _write(folder, "wrong", GOOD.replace("cores = 2", "cores = 9"))
    good = _write(folder)
    assert run(["profiles", "check", good, wrong, "nowhere.toml"]) == 2
    said = capsys.readouterr().out
    assert f"{good}: ok" in said
    assert f"{wrong}: wrong" in said
    assert f"error: {wrong}: power_modes.15W.cores is 9, but cores is 4." in said
    assert "nowhere.toml: wrong" in said
    assert "error: There is no profile at nowhere.toml." in said
    assert "UTF-8" not in said


def test_a_target_that_is_not_there_has_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(folder, "board", GOOD.replace('target = "intel"', 'target = "linux"'))
    assert run(["profiles", "check", file]) == 2
    said = capsys.readouterr().out
    assert "target is 'linux'; known are" in said
    assert "Did you mean 'linux-arm'?" in said


def test_what_is_suspicious_is_a_warning_with_code_0(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soc = '"identity.soc" = "Intel(R) N100"\n'
    file = _write(folder, "t4", GOOD[: GOOD.index("[match]")] + "[match]\n" + soc)
    _write(folder, "broken", "= nothing")
    assert run(["profiles", "check", file]) == 0
    said = capsys.readouterr().out
    assert f"{file}: ok, 2 warnings" in said
    assert "warning: name is 't4', and hides the one in package." in said
    assert "warning: match fits devices of n100 too; there n100 would win." in said


def test_files_that_are_checked_together_are_held_against_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [_write(folder, "board"), _write(folder, "copy")]
    assert run(["profiles", "check", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in found] == files
    assert [entry["profile"] for entry in found] == ["board", "copy"]
    for entry, other in zip(found, ["copy", "board"], strict=True):
        (warning,) = entry["warnings"]
        assert warning["path"] == "match"
        assert warning["what"].startswith(f"fits devices of {other} too")
        assert entry["error"] is None


def test_json_of_a_wrong_file_has_its_three_beats(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(folder, "board", GOOD.replace('"f16", "int8"]', '"int8"]'))
    assert run(["profiles", "check", file, "--json"]) == 2
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["profile"] is None
    assert set(entry["error"]) == {"what", "cause", "remedy"}
    assert "engines.gpu.peak.f16" in entry["error"]["what"]


def test_a_shipped_file_is_not_held_against_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from profiles import PACKAGE_FOLDER

    assert run(["profiles", "check", str(PACKAGE_FOLDER / "linux-arm/raspberry-pi-5.toml")]) == 0
    assert "hides" not in capsys.readouterr().out
