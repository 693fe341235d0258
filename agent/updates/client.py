"""python-tuf, as far as it is used here: the only module that touches what it does not promise.

`Updater` verifies, and offers no way to say what time it is or to read what it trusts. Both are
taken from its `_trusted_set`; tests/updates/test_trust.py fails if a newer version moves them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import NetworkError, SlipwayError, VerificationError
from agent.files import storage_error
from agent.updates.source import MissingError, Source, read_short

METADATA = "metadata"
_JUDGED_AT_ISSUE = ("timestamp", "snapshot")


class Client:
    """One look at a repository, with the trusted metadata in a folder of its own."""

    def __init__(self, folder: Path, source: Source, root: bytes, now: dt.datetime) -> None:
        """Begin with what is trusted in `folder`, which python-tuf writes to.

        Raises:
            VerificationError: `root` is no root metadata.
            StorageError: the folder cannot be written.
        """
        from tuf.ngclient import Updater, UpdaterConfig

        with tuf_errors():
            self._updater = Updater(
                metadata_dir=str(folder),
                metadata_base_url=METADATA,
                fetcher=_fetcher(source),
                config=UpdaterConfig(),
                bootstrap=root,
            )
        self._trusted: Any = self._updater._trusted_set  # noqa: SLF001  it has no other door
        self._trusted.reference_time = now  # a device's clock may be wrong

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date.

        Raises:
            VerificationError: something is not to be trusted.
            NetworkError: something cannot be fetched.
            StorageError: the folder cannot be written.
        """
        with tuf_errors():
            self._updater.refresh()

    def find(self, path: str) -> Any:
        """What is signed of a path, a `TargetFile`; None if nobody trusted has signed it.

        It fetches the metadata of the roles that may have. Errors as for `refresh`.
        """
        with tuf_errors():
            return self._updater.get_targetinfo(path)

    def signed(self, role: str) -> Any:
        """The trusted part of a role's metadata; None where it was not looked at."""
        return self._trusted.get(role)

    def check_expiry(self, now: dt.datetime) -> None:
        """Judge all that was looked at, but timestamp and snapshot, at another time.

        Raises:
            VerificationError: something expired before.
        """
        for signed in self._trusted:  # its values, unlike what other mappings give
            if signed.type not in _JUDGED_AT_ISSUE and signed.is_expired(now):
                raise VerificationError(
                    f"The {signed.type} metadata of the package, version {signed.version}, expired "
                    f"on {signed.expires:%Y-%m-%d}; here it is {now:%Y-%m-%d}.",
                    cause="The package is old, or this device's clock is ahead.",
                    remedy="Export the release anew: sdk assign MODEL RELEASE --export FILE",
                )


def _fetcher(source: Source) -> Any:
    from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        """python-tuf's view of a source; it needs no temporary file."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            raise NotImplementedError(url)  # only `download_bytes` is used

        def download_bytes(self, url: str, max_length: int) -> bytes:
            try:
                content = read_short(source, urllib.parse.unquote(url), max_length)
            except MissingError as error:
                raise DownloadHTTPError(error.what, 404) from error
            except NetworkError as error:
                raise DownloadError(error.what) from error
            if len(content) > max_length:
                raise DownloadLengthMismatchError(f"{url} has more than {max_length} bytes")
            return content

    return Fetcher()


@contextlib.contextmanager
def tuf_errors() -> Iterator[None]:
    """What python-tuf raises, as what a person can act on."""
    from tuf.api import exceptions as tuf

    try:
        yield
    except tuf.RepositoryError as error:
        cause, remedy = _WHY.get(type(error).__name__, _OTHERWISE)
        raise _untrusted(f"{error}", cause, remedy) from error
    except tuf.DownloadLengthMismatchError as error:
        raise _untrusted(
            f"{error}",
            "The server sends more than was signed.",
            "What runs goes on running. Ask whoever runs the server.",
        ) from error
    except tuf.DownloadError as error:
        if isinstance(error.__cause__, SlipwayError):
            raise error.__cause__ from error
        raise NetworkError(
            f"The repository cannot be read: {error}.",
            cause="The network or the server is down, or the repository is not there.",
            remedy="It is tried again by itself.",
        ) from error
    except OSError as error:  # of its copy of the metadata, which python-tuf writes itself
        raise storage_error(error, Path(error.filename or "trust")) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # What is malformed in a way that python-tuf did not think of is malformed all the same.
        raise _untrusted(f"{type(error).__name__}: {error}"[:300], *_OTHERWISE) from error


def _untrusted(what: str, cause: str, remedy: str) -> VerificationError:
    return VerificationError(
        f"The repository is not to be trusted: {what.rstrip('.')}.", cause=cause, remedy=remedy
    )


_WHY: Mapping[str, tuple[str, str]] = {
    "ExpiredMetadataError": (
        "Nobody signed it anew, or the server holds the newer one back, or the clock is ahead.",
        "What runs goes on running. On the server: sdk repo refresh; on the device: set the clock.",
    ),
    "BadVersionNumberError": (
        "The server shows an older state than this device has seen.",
        "What runs goes on running. Ask whoever runs the server.",
    ),
    "UnsignedMetadataError": (
        "Too few of the keys that are trusted for it have signed it.",
        "What runs goes on running. Publish with the right keys, or rotate them: sdk keys rotate",
    ),
    "LengthOrHashMismatchError": (
        "The server mixes files of different states, or changed one.",
        "What runs goes on running. Publish the repository again as a whole.",
    ),
}
_OTHERWISE = (
    "A file is malformed, or belongs to another repository.",
    "What runs goes on running. Publish the repository again as a whole.",
)
