"""Panels with half of their lamps on, each as bright as it happens to be."""

from collections.abc import Iterator

import numpy as np

Sample = tuple[str, dict[str, np.ndarray]]


def samples() -> Iterator[Sample]:
    random = np.random.default_rng(1)
    for number in range(1500):
        lamps = random.uniform(0.3, 1.0, (1, 32)) * (random.random((1, 32)) < 0.5)
        yield f"panel-{number}", {"brightness": np.repeat(lamps, 2, axis=1).astype(np.float32)}
