"""Our safetensors files are everybody's, and a hostile one is refused before it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from agent.errors import VerificationError
from agent.tensors import DTYPES, read_tensors, write_tensors

some_arrays = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name != "__metadata__"
    ),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_side=3))
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=some_arrays)
def test_what_we_write_the_reference_reads_and_so_do_we(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors.items())
    for found in (safetensors.numpy.load_file(path), read_tensors(path)):
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_what_the_reference_writes_we_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([True])}
    safetensors.numpy.save_file(tensors, path)
    found = read_tensors(path)
    np.testing.assert_array_equal(found["x"], tensors["x"])
    np.testing.assert_array_equal(found["y"], tensors["y"])


def hostile(header: object, body: bytes = b"\0" * 8) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def entry(**changes: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HOSTILE = {
    "empty": b"",
    "a length beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "a header of garbage": (4).to_bytes(8, "little") + b"\xff\xfe{}",
    "a header that is a list": hostile([]),
    "a header nested too deep": (10_000).to_bytes(8, "little") + b"[" * 10_000,
    "an unknown dtype": hostile(entry(dtype="PICKLE")),
    "a negative size": hostile(entry(shape=[-2])),
    "a shape that does not fit": hostile(entry(shape=[3])),
    "a product that overflows": hostile(entry(shape=[1 << 40, 1 << 40])),
    "offsets that overlap": hostile(entry(data_offsets=[4, 12])),
    "offsets beyond the file": hostile(entry(data_offsets=[0, 800], shape=[200])),
    "bytes that belong to nobody": hostile(entry(), b"\0" * 9),
    "a missing field": hostile({"x": {"dtype": "F32"}}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="not a readable safetensors file"):
        read_tensors(path)


def test_an_array_of_another_dtype_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(VerificationError, match="complex64"):
        write_tensors(path, [("x", np.zeros(1, np.complex64))])
    assert not path.exists()
