"""The pytest plugin, as a user's own pytest loads it: in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hil.conftest import Loopback
from tests.hil.variants import tiny_onnx

pytest_plugins = ["pytester"]
TESTS = """
    import pytest

    def test_without_a_rig():
        pass

    def test_leased(rig):
        assert rig.is_leased

    def test_again(rig):
        assert rig.is_leased
"""
RETRYING = """
    import pytest
    from _pytest.runner import runtestprotocol

    # What pytest-rerunfailures does: a test that fails is run twice more.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        for attempt in range(3):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            item._initrequest()
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if attempt == 2 or all(one.passed for one in reports):
                for one in reports:
                    item.ihook.pytest_runtest_logreport(report=one)
                return True
"""


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made before `pytester`, which forgets modules that are imported after it: onnx comes once."""
    return tiny_onnx(tmp_path_factory.mktemp("built"))


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def _run(pytester: pytest.Pytester, *arguments: object) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "hil.pytest_plugin", "-v", *map(str, arguments))


def test_without_a_rig_its_tests_are_skipped_with_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    found = _run(pytester, "-rs")
    found.assert_outcomes(passed=1, skipped=2)
    found.stdout.fnmatch_lines(["*no rig is named: pytest --rig NAME*"])


def test_a_fixture_of_that_name_of_the_users_own_is_theirs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def rig(tmp_path):
            return "a drilling rig"

        def test_theirs(rig):
            assert rig == "a drilling rig"
        """
    )
    found = _run(pytester)
    found.assert_outcomes(passed=1)
    found.stdout.fnmatch_lines(["*::test_theirs PASSED*"])


def test_a_rig_is_leased_for_its_tests_and_free_afterwards(
    pytester: pytest.Pytester, reachable: Loopback
) -> None:
    pytester.makepyfile(TESTS + "\n    def test_fails(rig):\n        assert 0\n")
    found = _run(pytester, "--rig", "loopback", "--inventory", reachable.inventory_file)
    found.assert_outcomes(passed=3, failed=1)
    found.stdout.fnmatch_lines(["*test_leased?loopback? PASSED*"])
    with reachable.open() as rig:
        assert rig.hello["holder"] is None
        assert rig.lease("me@here", lambda _: None, wait_s=5) == []


@pytest.mark.long
def test_rigs_are_named_by_tag_and_each_has_the_test(
    pytester: pytest.Pytester, reachable: Loopback, tmp_path: Path
) -> None:
    text = reachable.inventory_file.read_text()
    inventory = tmp_path / "hil.toml"
    inventory.write_text(
        text + 'tags = ["desk"]\n'
        + text.replace("[rig.loopback]", "[rig.other]").replace('/rig"', '/rig/other"')
        + 'tags = ["desk", "fan"]\n'
    )  # fmt: skip
    pytester.makepyfile(TESTS)
    found = _run(pytester, "--rig-tag", "desk", "--inventory", inventory)
    found.assert_outcomes(passed=5)
    found = _run(pytester, "--rig-tag", "fan", "--inventory", inventory)
    found.assert_outcomes(passed=3)
    found = _run(pytester, "--rig-tag", "fna", "--inventory", inventory)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*No rig of the inventory has the tag 'fna'*"])
    found = _run(pytester, "--rig", "dsek", "--inventory", inventory)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*There is no rig 'dsek'*"])


@pytest.mark.long
def test_a_rig_that_somebody_has_is_waited_for_so_long(
    pytester: pytest.Pytester, reachable: Loopback
) -> None:
    pytester.makepyfile(TESTS)
    with reachable.open() as rig:
        rig.lease("eve@lab a build", lambda _: None, wait_s=5)
        found = _run(
            pytester, "--rig", "loopback", "--inventory", reachable.inventory_file,
            "--rig-wait", 1,
        )  # fmt: skip
    found.assert_outcomes(passed=1, errors=2)
    found.stdout.fnmatch_lines(["*eve@lab a build has the rig loopback*"])


def test_what_counts_once_is_not_run_twice(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(RETRYING)
    pytester.makepyfile(
        """
        import pathlib, pytest

        def noted(name):
            with open(name, "a") as stream:
                stream.write("x")

        @pytest.mark.never_retry
        def test_burns_a_fuse():
            noted("fuse")
            assert 0

        def test_flaky():
            noted("flaky")
            assert 0
        """
    )
    found = _run(pytester)
    found.assert_outcomes(failed=1, errors=1)
    assert (pytester.path / "flaky").read_text() == "xxx"
    assert (pytester.path / "fuse").read_text() == "x"
    found.stdout.fnmatch_lines(["*is marked never_retry*"])


def test_a_rig_that_is_lost_stays_lost(pytester: pytest.Pytester, reachable: Loopback) -> None:
    pytester.makepyfile(
        """
        import socket

        def test_cut(rig):
            rig._line._channel.transport.sock.shutdown(socket.SHUT_RDWR)
            rig.run("look", time_limit_s=20)

        def test_after(rig):
            raise SystemExit("it was begun")
        """
    )
    found = _run(pytester, "--rig", "loopback", "--inventory", reachable.inventory_file)
    found.assert_outcomes(failed=2)
    found.stdout.fnmatch_lines(["*The rig loopback was lost in an earlier test.*"])


@pytest.mark.toolchain
def test_a_variant_is_loaded_there_and_run_with_arrays_of_here(
    pytester: pytest.Pytester, reachable: Loopback, runtime: Loopback, variant: Path
) -> None:
    assert runtime is reachable
    pytester.makepyfile(
        f"""
        import numpy as np
        import pytest

        X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)

        @pytest.mark.never_retry
        def test_answers(session_on_rig):
            session = session_on_rig({str(variant)!r})
            found = session.run({{"x": X}})["y"]
            assert found.shape == (1, 8) and (found >= 0).all() and found.any()

        def test_too_much(session_on_rig):
            session_on_rig({str(variant)!r}, memory_limit_mib=8)
        """
    )
    found = _run(
        pytester, "--rig", "loopback", "--inventory", reachable.inventory_file,
        "--junit-xml", "found.xml",
    )  # fmt: skip
    found.assert_outcomes(passed=1, failed=1)
    assert 'name="rig_outcome" value="out_of_memory"' in (pytester.path / "found.xml").read_text()
