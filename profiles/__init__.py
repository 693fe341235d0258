"""Device types as data files, and the one small loader.

A profile says what a device type is and can do, each figure with its source; it never measures.
Files are looked up in the project's `profiles/`, then the user's folder, then this package.
docs/reference/profiles.md describes the format.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.identity import ISA_WORDS, IsaClass, isa_class
from agent.versions import version_key

PACKAGE_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with where it comes from."""

    value: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """One thing that computes: dense peak rates in GFLOP/s (GOP/s for int8) per precision."""

    name: str
    """`cpu`, `gpu`, `npu` or `dla`."""
    title: str
    peak: Mapping[str, Figure]
    """Precision (f32, tf32, f16, bf16, int8, fp8, fp4) -> dense GFLOP/s; unsourced ones absent."""
    precisions: tuple[str, ...] = ()
    """All that it computes in, where a source lists them; a recipe in another is refused."""
    precisions_source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """One set of software that devices of a type run: a JetPack, a distribution."""

    name: str
    python: str | None
    """`3.10`: which wheels fit."""
    runtimes: Mapping[str, str]
    """Runtime distribution -> version."""
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerMode:
    """What one power mode allows. Numbers of modes differ between boards, names do not."""

    name: str
    source: str
    cores: int | None = None
    """CPU cores that are online."""
    cpu_mhz: int | None = None
    gpu_mhz: int | None = None
    memory_mhz: int | None = None
    watts: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What `sdk fit` learnt of one toolchain on one engine of such a device, from measurements.

    It stands beside the sourced facts and changes none of them: estimates use it where it applies.
    """

    toolchain: str
    engine: str
    ms: Mapping[str, float]
    """Term (sdk/estimate/terms.py) -> milliseconds for each unit of it, 0 or more. A program with
    a term that is not here was not learnt from, and gets no estimate of this."""
    kinds: tuple[str, ...]
    """Which recipes were measured: precision, method of quantisation, runtime options."""
    rows: int
    """Measurements it was fitted on."""
    held_out: int
    """Measurements that it was judged on, each while its network was no part of the fit."""
    error: float
    """The mean of |predicted - measured| / measured on those."""
    low: float
    high: float
    """Measured over predicted: nine in ten of those lie between."""
    date: str
    device: str
    """The digest of the identity of the unit that was measured."""
    tools: Mapping[str, str]
    """Distribution -> version of what was measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """What reports of whole models taught of one toolchain on one engine: factors on estimates.

    It stands beside the sourced facts and changes none of them. `sdk/learning/scales.py` makes it.
    """

    toolchain: str
    engine: str
    factors: Mapping[str, Mapping[str, float]]
    """Kind of recipe -> {fixed, work}: measured time over what is estimated without this, of what a
    request and its kernels cost beside their work, and of the work. Of a kind that is not here
    nothing was learnt."""
    base: str
    """The digest of all that is estimated from without this: for anything else the factors mean
    nothing, and are not used."""
    reports: int
    """Measurements that it was made of."""
    unstable: int
    """Of those, how many were taken while the machine was busy or throttled."""
    models: int
    """Programs among them."""
    devices: int
    fingerprints: tuple[str, ...]
    """The digests of what the devices are and run, 16 digits of each."""
    date: str
    tools: Mapping[str, str]
    """Runtime -> its versions on those devices."""
    error_before: float | None = None
    """The mean of |predicted - measured| / measured without this."""
    error: float | None = None
    """The same of each model while it was left out: with two models or more."""
    low: float | None = None
    high: float | None = None
    """Measured over predicted: nine in ten of models that were left out lie between. None where
    there are too few to tell: the interval gets no narrower than without this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One device type."""

    name: str
    target: str
    title: str
    match: Mapping[str, Any]
    """The predicate (agent.manifest.match) that says whether a device is of this type."""
    arch: str
    """x86_64 or aarch64, on every system."""
    isa: tuple[str, ...]
    """Flags in our own lower-case words: avx2, avx512_vnni, amx_int8, dotprod, i8mm, ..."""
    cores: int | None
    """None where the type is a card: its host's CPU is no part of it."""
    memory_bytes: int | None
    """Of the memory that the engines compute from: the card's own where the type is a card. None
    where the type is sold with different amounts, or no source tells."""
    bandwidth_gb_s: Figure | None
    """Of the same memory."""
    engines: Mapping[str, Engine]
    status: Mapping[str, str]
    """What was ever done: compiled, emulated, measured -> when and by whom, or `not tried`."""
    platform: str = "linux"
    """linux, android, ios, windows or macos: decides which backends can be there."""
    isa_complete: bool = False
    """False: the device may have flags beside those in `isa`, which no source told."""
    sm: str | None = None
    """CUDA compute capability, `8.7`; None where there is no such GPU."""
    software: Mapping[str, Stack] = dataclasses.field(default_factory=dict)
    """The stacks that such devices run, by name; what is built has to load under each."""
    power_modes: Mapping[str, PowerMode] = dataclasses.field(default_factory=dict)
    """By name. The peaks are those of the mode with the highest clocks."""
    fitted: tuple[Fitted, ...] = ()
    """What was learnt by measuring such a device; at most one for each toolchain and engine."""
    scales: tuple[Scale, ...] = ()
    """What was learnt from reports; at most one for each toolchain and engine."""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where `isa`, `cores`, `memory_bytes` and `sm` come from."""
    origin: str = "package"
    """Which file it was read from: `package`, or a path."""

    @property
    def is_host(self) -> bool:
        """It was detected on the machine that builds."""
        return self.name == f"{self.target}-host"

    @property
    def isa_class(self) -> IsaClass | None:
        """The class that decides int8 answers; None where `isa` leaves it open.

        What an incomplete list holds is certain, what it lacks is not: the class is known only if
        no further flag could change it.
        """
        least = isa_class(self.arch, self.isa, self.sm)
        most = isa_class(self.arch, ISA_WORDS[self.arch], self.sm)
        return least if self.isa_complete or least == most else None

    def oldest(self, runtime: str) -> str | None:
        """The oldest version of a runtime among the stacks; None where none names it."""
        found = [s.runtimes[runtime] for s in self.software.values() if runtime in s.runtimes]
        return min(found, key=lambda version: version_key(version) or (), default=None)


def parse(text: str, origin: str) -> Profile:
    """Read a profile's text.

    Args:
        text: TOML.
        origin: what messages call the file; kept in the profile.

    Raises:
        UsageError: not of the form, or it contradicts itself; the message names file and key.
    """
    from profiles.reader import read  # it needs this module's classes

    return read(text, origin)


def load(file: Path) -> Profile:
    """The profile in this file.

    Raises:
        UsageError: it cannot be read, is malformed, or is not called as its profile is.
    """
    ours = file.resolve().is_relative_to(PACKAGE_FOLDER.resolve())
    origin = "package" if ours else str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no profile at {file}.",
            cause="The path is misspelt, or the file was moved.",
            remedy="Name a TOML file; `sdk profiles show NAME --toml` prints one to start from.",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The profile {file} is not a text file: {error}.",
            cause="It is not in UTF-8, or not TOML at all.",
            remedy="Save it as UTF-8.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"The profile {file} cannot be read: {error.strerror}.",
            cause="It is a folder, or belongs to somebody else.",
            remedy="Name a TOML file that you may read.",
        ) from error
    profile = parse(text, str(file))
    if profile.name != file.stem:
        raise UsageError(
            f"{file}: name is {profile.name!r}, but the file is called {file.name!r}.",
            cause="A profile is found by its file's name.",
            remedy=f"Rename the file to {profile.name}.toml, or correct the name.",
        )
    return dataclasses.replace(profile, origin=origin)


def find(name: str, search: Sequence[Path]) -> Profile:
    """The profile of this name, from the first folder that has it.

    Args:
        name: as `sdk profiles list` shows it.
        search: folders that come before the package's own: the project's, then the user's.

    Raises:
        UsageError: there is none, it is malformed, or one folder has two files of the name.
    """
    for folder in (*search, PACKAGE_FOLDER):
        found = [file for file in _files(folder) if file.stem == name]
        if len(found) > 1:
            raise UsageError(
                f"The profile {name!r} is there twice: {found[0]} and {found[1]}.",
                cause="Profile names are unique across targets.",
                remedy="Rename or remove one.",
            )
        if found:
            return load(found[0])
    known = sorted(names(search))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    raise UsageError(
        f"There is no profile {name!r}; known are {', '.join(known)}.",
        cause=f"Did you mean {close[0]!r}?" if close else "The name is misspelt.",
        remedy="Use one of these, or this machine with: --profile host",
    )


def names(search: Sequence[Path]) -> set[str]:
    """The names of all profiles, without reading them."""
    return {file.stem for file in files(search)}


def files(search: Sequence[Path]) -> Iterator[Path]:
    """The files of all profiles, in the order of look-up, hidden ones included."""
    for folder in (*search, PACKAGE_FOLDER):
        yield from _files(folder)


def all_profiles(search: Sequence[Path]) -> dict[str, Profile]:
    """Every profile by name, sorted; where two folders have one name, the earlier folder wins.

    Raises:
        UsageError: one is malformed.
    """
    return {name: find(name, search) for name in sorted(names(search))}


def _files(folder: Path) -> Iterator[Path]:
    """`<folder>/NAME.toml` and `<folder>/TARGET/NAME.toml`."""
    yield from sorted(folder.glob("*.toml"))
    yield from sorted(folder.glob("*/*.toml"))
