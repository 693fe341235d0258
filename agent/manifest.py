"""The formats that cross a border: fingerprint, `match`, manifest v1.

The reader that cannot change is the device in the field, so the format lives here and the host
imports it, never the reverse. Old readers keep and ignore unknown optional fields; what an old
reader must not ignore has an entry in `requires`, and it refuses the whole when it knows one not.
Everything that gets signed holds integers only. docs/reference/manifest.md is this page in words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from agent.codec import decode, loads_signed, pretty
from agent.errors import VerificationError
from agent.versions import version_key

VERSION = 1
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()
"""The entries of `requires` that this reader understands; v1 needs none yet."""

Role = Literal["chosen", "runner_up", "baseline", "smaller"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: `dtype` as numpy names it, `shape` of integers and names of dims."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """What a variant takes and returns: the same for all variants of one model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, tuple[int, int, int]]
    """Name of a dynamic dim -> (min, opt, max)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a device is, runs, and was set to when it was looked at.

    `software` keys prepared engines and re-proving; `conditions` join it in the keys of
    measurements only.
    """

    identity: dict[str, Any]
    """{arch, soc, isa[], cores, gpu, sm, memory_bytes, emulated}"""
    software: dict[str, Any]
    """{os, driver, jetpack, runtimes{name: version}}"""
    conditions: dict[str, Any]
    """{power_mode, governor}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """The runtime that loads a variant: `format` names the session, versions are PEP 440."""

    format: str
    at_least: str | None
    below: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delta:
    """A smaller download, applied to the file `base_sha256`; hash and length are the blob's."""

    base_sha256: str
    sha256: str
    length: int
    algo: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """One file of a variant; `path` is relative to the variant's folder."""

    path: str
    sha256: str
    length: int
    shapes: dict[str, tuple[int, int]] | None = None
    """The bucket it serves, dim -> (min, max); null where one file serves all shapes."""
    deltas: tuple[Delta, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blob:
    """A content-addressed file that stands beside the variants, such as the golden data."""

    sha256: str
    length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPack:
    """A sample of the final split with the original's outputs, and labels where those may leave."""

    sha256: str
    length: int
    metric: str
    higher_is_better: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor:
    """The least agreement with the original that one output must show on the golden data."""

    output: str
    metric: Literal["cosine", "equal_share"]
    min_ppm: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """A bound that the device measures itself before it activates a variant."""

    quantity: Literal[
        "latency_us",
        "load_us",
        "memory_peak_bytes",
        "memory_increment_bytes",
        "throughput_milli_per_s",
    ]
    quantile_permille: int | None = None
    max: int | None = None
    min: int | None = None
    ratio_max_permille: int | None = None
    ratio_to: Literal["running", "baseline"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantEntry:
    """One variant of the ladder, as the manifest lists it. `rank` 0 is best within its profile."""

    id: str
    target: str
    profile: str
    role: Role
    rank: int
    selection: Literal["rank", "measure"]
    match: dict[str, Any]
    runtime: Runtime
    options: dict[str, Any]
    unpacked_bytes: int
    files: tuple[File, ...]
    floors: tuple[Floor, ...]
    drop_max_ppm: int | None
    gates: tuple[Gate, ...]
    provenance: dict[str, Any]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """One release of one model for the whole fleet. `release` is null until it is published."""

    version: int
    model: str
    release: str | None
    release_counter: int | None
    requires: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, tuple[int, int, int]]
    golden: Blob
    evaluation: EvaluationPack | None
    variants: tuple[VariantEntry, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """Inputs, outputs and dims together, as a session takes them."""
        return Signature(inputs=self.inputs, outputs=self.outputs, dims=self.dims)


def parse(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationError: not JSON, not this form, a version or a requirement this reader does
            not know, or a number that is not an integer.
    """
    try:
        value = loads_signed(content)
    except ValueError as error:
        raise VerificationError(
            f"The manifest is not JSON that this reader accepts: {error}.",
            cause="The file was cut short, edited by hand, or is something else.",
            remedy="Build or fetch it again.",
        ) from error
    if isinstance(value, dict) and value.get("version") != VERSION:
        raise VerificationError(
            f"The manifest has version {value.get('version')!r}, this reader knows {VERSION}.",
            cause="It was made by a newer Slipway.",
            remedy="Update this one first.",
        )
    manifest = decode(Manifest, value)
    unknown = sorted(set(manifest.requires) - KNOWN_REQUIREMENTS)
    if unknown:
        raise VerificationError(
            f"The manifest requires {', '.join(unknown)}, which this reader does not know.",
            cause="It was made for a newer agent.",
            remedy="Update the agent first; nothing was changed.",
        )
    return manifest


def serialise(manifest: Manifest) -> bytes:
    """The manifest as the bytes that get written and, later, signed."""
    return pretty(manifest)


def match(predicate: Mapping[str, Any], fingerprint: Fingerprint) -> bool:
    """Does this device fit the predicate? All conditions must hold; an empty one fits every device.

    A condition is a dotted path of the fingerprint -> a scalar (equal), a list (one of), or
    {min, below, has[]}. A path the fingerprint lacks is false. `min` and `below` compare numbers
    as numbers and strings as PEP 440 versions.

    >>> device = Fingerprint(identity={"arch": "aarch64"}, software={"jetpack": "6.2.1"},
    ...                      conditions={})
    >>> match({"software.jetpack": {"min": "6.1", "below": "7"}}, device)
    True
    """
    return all(_holds(condition, path, fingerprint) for path, condition in predicate.items())


def differences(predicate: Mapping[str, Any], fingerprint: Fingerprint) -> list[str]:
    """What of a device is another way than the predicate asks, in words; nothing where it fits.

    >>> differences({"identity.arch": "x86_64"},
    ...             Fingerprint(identity={"arch": "aarch64"}, software={}, conditions={}))
    ["identity.arch is 'aarch64', not 'x86_64'"]
    """
    return [
        f"{path} is {_value_at(path, fingerprint)!r}, not {wanted!r}"
        for path, wanted in predicate.items()
        if not _holds(wanted, path, fingerprint)
    ]


def _value_at(path: str, fingerprint: Fingerprint) -> Any:
    value: Any = dataclasses.asdict(fingerprint)
    for part in _path_parts(path):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _holds(condition: Any, path: str, fingerprint: Fingerprint) -> bool:
    value = _value_at(path, fingerprint)
    if value is None:
        return False
    if isinstance(condition, Mapping):
        return bool(condition) and all(
            _compare(operator, bound, value) for operator, bound in condition.items()
        )
    if isinstance(condition, (list, tuple)):
        return any(_equal(option, value) for option in condition)
    return _equal(condition, value)


def _path_parts(path: str) -> list[str]:
    """Split at dots; a runtime's name may hold one, so the tail of `runtimes` stays whole."""
    head, _, tail = path.partition(".runtimes.")
    return [*head.split("."), *(["runtimes", tail] if tail else [])]


def _equal(expected: Any, value: Any) -> bool:
    return type(expected) is type(value) and bool(expected == value)


def _compare(operator: str, bound: Any, value: Any) -> bool:
    if operator == "has":
        wanted = bound if isinstance(bound, (list, tuple)) else [bound]
        return isinstance(value, (list, tuple)) and all(
            any(_equal(want, found) for found in value) for want in wanted
        )
    if operator not in ("min", "below"):
        return False
    if isinstance(bound, str) and isinstance(value, str):
        left, right = version_key(value), version_key(bound)
        if left is None or right is None:
            return False
        return left >= right if operator == "min" else left < right
    if _is_number(bound) and _is_number(value):
        return bool(value >= bound) if operator == "min" else bool(value < bound)
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
