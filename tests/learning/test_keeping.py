"""The profile's copy: what was learnt is in it, nothing else changed, and the old one is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.folders import config_folder
from profiles import PACKAGE_FOLDER, find, load
from sdk.learning.keeping import keep, with_scales
from sdk.project import profile_folders
from tests.learning.test_scales import one_scale
from tests.learning.worlds import fleet, profile

SOURCE = (PACKAGE_FOLDER / "intel/n100.toml").read_text()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CONFIG", str(tmp_path / "config"))


def test_a_profile_of_the_package_is_copied_to_the_users_and_found_there(tmp_path: Path) -> None:
    scale = one_scale(fleet(4, 3))
    written = keep(profile(), (scale,), tmp_path, None)
    assert written == config_folder() / "profiles/intel/n100.toml"
    assert written.read_text().startswith(SOURCE.rstrip())
    assert find("n100", profile_folders(tmp_path)).scales == (scale,)


def test_a_profile_of_the_project_is_changed_in_its_place_and_the_old_one_kept(
    tmp_path: Path,
) -> None:
    file = tmp_path / "profiles/n100.toml"
    file.parent.mkdir()
    file.write_text(f"# ours\n{SOURCE}")
    first, second = one_scale(fleet(3, 3)), one_scale(fleet(5, 3))
    for scale in (first, second):
        found = find("n100", profile_folders(tmp_path))
        assert keep(found, (scale,), tmp_path, None) == file
    assert load(file).scales == (second,)
    assert file.read_text().startswith(f"# ours\n{SOURCE.rstrip()}")
    assert file.with_name("n100.toml.old").read_text() == with_scales(
        f"# ours\n{SOURCE}", (first,), "n100", "n100"
    )


def test_a_copy_elsewhere_is_called_as_its_file_is(tmp_path: Path) -> None:
    written = keep(profile(), (one_scale(fleet(3, 3)),), tmp_path, tmp_path / "board.toml")
    assert load(written).name == "board"


def test_a_form_that_lines_do_not_show_is_refused() -> None:
    scale = one_scale(fleet(3, 3))
    text = with_scales(SOURCE, (scale,), "n100", "n100")
    hidden = text.replace(
        "[fitted.openvino.cpu.scale]\n", "[fitted]\n[fitted.openvino.cpu]\n[ fitted . openvino ."
        ' "cpu" . "scale" ]\n'
    )  # fmt: skip
    with pytest.raises(UsageError, match="line by line"):
        with_scales(hidden, (scale,), "n100", "n100")
