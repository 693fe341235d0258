"""Tests on real devices: `pytest --rig NAME`, the fixtures `rig` and `session_on_rig`.

A rig is leased when the first test asks for it, and given back at the end, whatever happens: the
rig's own kernel keeps the lease. A test that uses `rig` runs once on each that is named; without
one it is skipped. A rig that is lost in a test stays lost for those after it, which fail at once
with that reason: nothing here connects again behind a test's back.

What measures or destroys is marked `never_retry`: a plugin that repeats tests cannot run it twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # hil's modules are imported once a rig is named: this one is in every pytest
    from hil.reach import Place
    from hil.rig import Rig
    from hil.session import RigSession

_ATTEMPTS = pytest.StashKey[int]()
_PLACES = pytest.StashKey[dict[str, "Place"]]()
_NO_RIG = "no rig is named: pytest --rig NAME or --rig-tag TAG (sdk hil list shows them)"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("rigs", "rigs: bench devices that are reached over SSH")
    group.addoption(
        "--rig", action="append", default=[], metavar="NAME",
        help="run tests that use `rig` on it; repeat for more",
    )  # fmt: skip
    group.addoption(
        "--rig-tag", action="append", default=[], metavar="TAG",
        help="on every rig of the inventory with this tag",
    )  # fmt: skip
    group.addoption(
        "--inventory", type=Path, metavar="FILE", help="otherwise hil.toml here or above"
    )
    group.addoption("--rig-wait", type=float, metavar="SECONDS", help="for a rig's turn, at most")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and where the rigs are."""
    config.stash[_PLACES] = _places(config)
    config.addinivalue_line(
        "markers",
        "never_retry: what it does counts once (it measures, or destroys): a second attempt fails",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test on a rig is one for each that is named; whoever has a `rig` of their own keeps it."""
    if "_named_rig" in metafunc.fixturenames:
        places: dict[str, Place] = metafunc.config.stash[_PLACES]
        names = list(places)
        metafunc.parametrize(
            "_named_rig", names or [None], indirect=True, scope="session",
            ids=names or ["no-rig"],
        )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse the second attempt of a test that is never to be retried."""
    attempts = item.stash.get(_ATTEMPTS, 0) + 1
    item.stash[_ATTEMPTS] = attempts
    if attempts > 1 and item.get_closest_marker("never_retry") is not None:
        pytest.fail(
            f"{item.nodeid} is marked never_retry, and is attempted once more: its first result "
            "counts.",
            pytrace=False,
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A rig that an earlier test lost is not reached again."""
    found = getattr(item, "funcargs", {}).get("rig")
    if found is not None and getattr(found, "is_lost", False):
        pytest.fail(f"The rig {found.name} was lost in an earlier test.", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A run that failed on the rig: how it ended, and the end of its log, beside the test's own."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    outcome, log = getattr(error, "outcome", None), getattr(error, "log", "")
    if isinstance(outcome, str):
        item.user_properties.append(("rig_outcome", outcome))
        report.user_properties = list(item.user_properties)
        if isinstance(log, str) and log:
            report.sections.append(("Log of the run on the rig", log))
    return report


@pytest.fixture(scope="session")
def _named_rig(request: pytest.FixtureRequest) -> str | None:
    """One of those that are named; None where none is."""
    found: str | None = request.param
    return found


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest, _named_rig: str | None) -> Iterator[Rig]:
    """A rig (`hil.rig.Rig`), leased until the last test that uses it; `hil.bench` works on it."""
    if _named_rig is None:
        pytest.skip(_NO_RIG)
    from hil.reach import who

    place = request.config.stash[_PLACES][_named_rig]
    told = request.config.get_terminal_writer()
    with place.leased(
        who("pytest"), lambda line: told.line(f"\n{line}"),
        wait_s=request.config.getoption("--rig-wait"),
    ) as found:  # fmt: skip
        yield found


@pytest.fixture
def session_on_rig(rig: Rig) -> Iterator[Callable[..., RigSession]]:
    """Load a variant's folder on the rig: `session_on_rig(FOLDER).run({"x": array})`.

    It is closed with the test. A rig has one session at a time: opening another one closes it.
    """
    from hil.session import RigSession

    with contextlib.ExitStack() as closing:

        def load(variant: str | Path, **limits: Any) -> RigSession:
            closing.close()
            return closing.enter_context(RigSession(rig, Path(variant), **limits))

        yield load


def _places(config: pytest.Config) -> dict[str, Place]:
    """The rigs that are asked for, each once: name -> where it is."""
    names: list[str] = list(config.getoption("--rig"))
    tags: list[str] = config.getoption("--rig-tag")
    if not names and not tags:
        return {}
    from agent.errors import SlipwayError
    from hil.reach import inventory_of, place_of

    given = config.getoption("--inventory")
    try:
        for tag in tags:
            tagged = [one.name for one in inventory_of(given).rigs.values() if tag in one.tags]
            if not tagged:
                raise pytest.UsageError(f"No rig of the inventory has the tag {tag!r}.")
            names += tagged
        return {name: place_of(name, given) for name in names}
    except SlipwayError as error:
        raise pytest.UsageError(str(error)) from error
