"""The digits: 700 to train on, and 1097 that training never sees and the SDK is given.

They come with scikit-learn, so nothing is downloaded.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAINING_DIGITS = 700


def samples() -> Iterator[tuple[str, dict[str, np.ndarray], int]]:
    """What `samples` in sdk.toml names: (id, inputs, label) of each digit kept from training."""
    pixels, labels = digits()
    for index in split()[1]:
        yield f"digit-{index:04d}", {"pixels": pixels[index : index + 1]}, int(labels[index])


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All pixels, one row per digit, with values from 0 to 16; and all labels."""
    bunch = load_digits()
    return bunch.data.astype(np.float32), bunch.target


def split() -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on, and indices kept from training."""
    labels = load_digits().target
    training, unseen = train_test_split(
        np.arange(len(labels)), train_size=TRAINING_DIGITS, stratify=labels, random_state=0
    )
    return np.sort(training), np.sort(unseen)
