"""The digits: 750 to train on, and 1047 that training never sees and the SDK is given.

They come with scikit-learn, so nothing is downloaded.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAINING_DIGITS = 750


def samples() -> Iterator[tuple[str, dict[str, np.ndarray], int]]:
    """What `samples` in sdk.toml names: (id, inputs, label) of each digit kept from training.

    The ids must stay the same from build to build: they decide which samples calibrate, which
    choose between candidates, and which are kept for the final accuracy.
    """
    images, labels = _digits()
    for index in _split()[1]:
        yield f"digit-{index:04d}", {"image": images[index : index + 1]}, int(labels[index])


def training_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels to train on."""
    images, labels = _digits()
    chosen = _split()[0]
    return images[chosen], labels[chosen]


def unseen_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of `samples`, all at once."""
    images, labels = _digits()
    chosen = _split()[1]
    return images[chosen], labels[chosen]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)  # pixels are counts from 0 to 16
    return images[:, None], bunch.target


def _split() -> tuple[np.ndarray, np.ndarray]:
    labels = load_digits().target
    training, unseen = train_test_split(
        np.arange(len(labels)), train_size=TRAINING_DIGITS, stratify=labels, random_state=0
    )
    return np.sort(training), np.sort(unseen)
