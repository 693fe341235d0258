"""Sentences: 1100 of them, from Python's own documentation and from descriptions of data sets.

They come with Python and scikit-learn, so nothing is downloaded. Replace them with text like that
of your users: a quarter of the sentences calibrates int8, which stays true only to text like it.
"""

import hashlib
import pydoc_data.topics
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from sklearn import datasets
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
SENTENCES = 1100
MIN_TOKENS, MAX_TOKENS = 8, 256  # the bounds of `sequence` in sdk.toml


def samples() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """What `samples` in sdk.toml names: (id, inputs) of each sentence, at its natural length.

    The id is a hash of the text: whatever is added later, a sentence stays in its split.
    """
    tokenizer = load_tokenizer()
    for text in sentences():
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        yield f"sentence-{identity}", encode(tokenizer, text)


def load_tokenizer() -> Tokenizer:
    """The published tokenizer, without the padding to 128 tokens that its file asks for."""
    # Read by Python, not by the tokenizers library: the SDK sees it, and rebuilds when it changes.
    tokenizer = Tokenizer.from_str((HERE / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    """One sentence as the model takes it; short ones are padded up to the least length."""
    ids = tokenizer.encode(text).ids
    padding = max(0, MIN_TOKENS - len(ids))
    return {
        "input_ids": np.array([ids + [0] * padding], dtype=np.int64),
        "attention_mask": np.array([[1] * len(ids) + [0] * padding], dtype=np.int64),
    }


def sentences() -> list[str]:
    """Different sentences of 4 to 60 words, spread evenly over all the texts there are."""
    found = dict.fromkeys(
        sentence
        for text in texts()
        for paragraph in prose(text)
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph)
        if 4 <= len(sentence.split()) <= 60 and sentence[0].isupper() and sentence[-1] in ".!?"
    )
    # In the order of a hash, so that the choice hardly changes from one Python to the next.
    ordered = sorted(found, key=lambda sentence: hashlib.sha256(sentence.encode()).digest())
    return ordered[:SENTENCES]


def texts() -> Iterable[str]:
    yield from pydoc_data.topics.topics.values()  # the language reference
    for load in (
        datasets.load_breast_cancer,
        datasets.load_diabetes,
        datasets.load_digits,
        datasets.load_iris,
        datasets.load_linnerud,
        datasets.load_wine,
    ):
        yield load().DESCR


def prose(text: str) -> Iterator[str]:
    """The paragraphs that are text: no code, no tables, no headings, no grammar."""
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        is_code = paragraph.startswith(" ") or re.search(r"::=|>>>|===|\*\*\*|---|\|", line)
        if line and not is_code:
            yield line
