"""PEP 440 versions as keys that compare, in the standard library alone.

The agent's measuring half may not depend on `packaging`; tests hold this against it.
"""

from __future__ import annotations

import re

_PATTERN = re.compile(
    r"""
    v?(?:(?P<epoch>\d+)!)?
    (?P<release>\d+(?:\.\d+)*)
    (?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_n>\d*))?
    (?:-(?P<post_implicit>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_n>\d*))?
    (?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>\d*))?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PRE_ORDER = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
MOST_LENGTH = 200
"""No version is longer; numbers of thousands of digits are none that `int` takes."""
_LAST = 9  # sorts after every pre-release letter

VersionKey = tuple[int, tuple[int, ...], tuple[int, int], int, tuple[int, int], tuple[object, ...]]


def version_key(text: str) -> VersionKey | None:
    """A key that orders like PEP 440 (https://peps.python.org/pep-0440/), None if not a version.

    >>> version_key("6.1") < version_key("6.2.1") < version_key("7.0rc1") < version_key("7.0")
    True
    """
    found = _PATTERN.fullmatch(text.strip()) if len(text) <= MOST_LENGTH else None
    if found is None:
        return None
    release = tuple(int(part) for part in found["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    post = -1
    if found["post_implicit"] is not None:
        post = int(found["post_implicit"])
    elif found["post"] is not None:
        post = int(found["post_n"] or 0)
    is_dev = found["dev"] is not None
    if found["pre"] is not None:
        pre = (_PRE_ORDER[found["pre"].lower()], int(found["pre_n"] or 0))
    elif is_dev and post < 0:
        pre = (-1, 0)  # 1.0.dev1 comes before 1.0a1
    else:
        pre = (_LAST, 0)
    dev = (0, int(found["dev_n"] or 0)) if is_dev else (1, 0)
    return (int(found["epoch"] or 0), release, pre, post, dev, _local_key(found["local"]))


def _local_key(local: str | None) -> tuple[object, ...]:
    if local is None:
        return ()
    return tuple(
        (1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.split(r"[-_.]", local.lower())
    )
