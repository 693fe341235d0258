"""Replace this by your own data: each sample has an id that stays the same, and real inputs."""

from collections.abc import Iterator

import numpy as np


def samples() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    random = np.random.default_rng(0)
    for index in range(600):
        smooth = random.standard_normal((1, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
        yield f"sample-{index:04d}", {"image": smooth.astype(np.float32)}
