"""Both kinds of deltas: what is made is applied to the same bytes, and how small they are."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.manifest import File
from agent.updates import delta
from sdk.release import deltas
from sdk.release.store import FolderStore
from tests.updates.fleet import silent

MAKERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "planes-zstd": deltas.planes,
    "zstd-patch": deltas.patch,
}


def applied(algorithm: str, base: bytes, made: bytes, length: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        old, patch = Path(folder, "old"), Path(folder, "patch")
        old.write_bytes(base)
        patch.write_bytes(made)
        return b"".join(delta.apply(algorithm, old, patch, length))


def test_every_kind_that_is_read_is_made() -> None:
    assert set(MAKERS) == set(delta.ALGORITHMS)


# Files that are alike, as two sets of weights are, and files that are not.
PIECES = st.lists(st.binary(max_size=64), max_size=6)


@given(algorithm=st.sampled_from(sorted(MAKERS)), old=PIECES, new=PIECES, shared=PIECES)
@example(algorithm="planes-zstd", old=[], new=[], shared=[])
@example(algorithm="zstd-patch", old=[], new=[], shared=[])
@example(algorithm="planes-zstd", old=[], new=[b"x"], shared=[])
@example(algorithm="zstd-patch", old=[], new=[b"x" * 64], shared=[])
@example(algorithm="zstd-patch", old=[b"x" * 64], new=[], shared=[])
def test_a_delta_applied_gives_the_new_bytes(
    algorithm: str, old: list[bytes], new: list[bytes], shared: list[bytes]
) -> None:
    base, wanted = b"".join([*shared, *old]), b"".join([*new, *shared])
    made = MAKERS[algorithm](base, wanted)
    assert applied(algorithm, base, made, len(wanted)) == wanted


@pytest.mark.parametrize("algorithm", sorted(MAKERS))
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_so_it_does_around_the_size_of_a_block(
    algorithm: str, extra: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delta, deltas):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 16)
    random = np.random.default_rng(7)
    size = (3 << 16) + extra
    base = random.bytes(size - 5)
    wanted = bytearray(base + b"12345")
    wanted[100] ^= 1
    made = MAKERS[algorithm](base, bytes(wanted))
    assert len(made) < 0.01 * size
    assert applied(algorithm, base, made, size) == wanted


def weights(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, count).astype(np.float32)


def smallest(folder: Path, base: bytes, new: bytes) -> deltas.Made | None:
    place = folder / "blobs/sha256" / hashlib.sha256(base).hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(base)
    (folder / "new").write_bytes(new)

    def entry(content: bytes) -> File:
        return File(path="w", sha256=hashlib.sha256(content).hexdigest(), length=len(content))

    return deltas.smallest(FolderStore(folder), entry(base), entry(new), folder / "new", silent)


def test_a_change_of_the_head_alone_costs_at_most_3_percent(tmp_path: Path) -> None:
    old = weights(2_000_000)
    new = old.copy()
    head = slice(1_900_000, 1_932_000)  # 1.6 % of the weights, all of them new
    new[head] = weights(32_000, seed=2)
    made = smallest(tmp_path, old.tobytes(), new.tobytes())
    assert made is not None
    assert made.delta.length <= 0.03 * new.nbytes
    assert made.delta.length == len(made.content)
    assert applied(made.delta.algo, old.tobytes(), made.content, new.nbytes) == new.tobytes()


def test_weights_that_moved_a_little_take_planes(tmp_path: Path) -> None:
    old = weights(500_000).astype(np.float16)
    moved = old.astype(np.float32) * (1 + weights(500_000, seed=3) / 20)
    made = smallest(tmp_path, old.tobytes(), moved.astype(np.float16).tobytes())
    assert made is not None
    assert made.delta.algo == "planes-zstd"


@pytest.mark.slow
def test_content_that_shifted_takes_a_patch(tmp_path: Path) -> None:
    # More than the tables of zstd's level would cover by themselves.
    old = np.random.default_rng(4).bytes(13 << 20)
    made = smallest(tmp_path, old, b"a longer header" + old)
    assert made is not None
    assert made.delta.algo == "zstd-patch"
    assert made.delta.length < 0.01 * len(old)


def test_the_smaller_one_wins(tmp_path: Path) -> None:
    for seed in range(4):
        old = weights(20_000, seed).tobytes()
        new = np.roll(weights(20_000, seed), seed).tobytes()
        made = smallest(tmp_path, old, new)
        assert made is not None
        lengths = {name: len(make(old, new)) for name, make in MAKERS.items()}
        assert made.delta.length == min(lengths.values())
        assert lengths[made.delta.algo] == made.delta.length


def test_what_has_nothing_in_common_gets_no_delta(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    assert smallest(tmp_path, random.bytes(100_000), random.bytes(100_000)) is None
