"""The admin API as operators and scripts ask it: one request, one answer, or why there is none.

Nothing is asked twice and no redirect is followed: the key goes to the server that was named.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from agent.errors import NetworkError, SlipwayError, UsageError, VerificationError

CONNECT_S, READ_S = 10.0, 60.0
PAGE = 1000
"""As many as the server lists at once."""
_CHUNK_BYTES = 1 << 16
_KEY = re.compile(r"slipway-api-[\x21-\x7e]{1,180}")


class FleetClient:
    """A fleet server, asked with one operator's key."""

    def __init__(self, server: str, key: str) -> None:
        """Nothing is asked yet.

        Args:
            server: its address, with the path that it lies under.
            key: of an operator.

        Raises:
            UsageError: one of them cannot be.
        """
        import urllib3

        self.server = _checked(server)
        if not _KEY.fullmatch(key):
            raise UsageError(
                "The API key is none.",
                cause="A key begins with slipway-api-, and has no spaces; it may have been cut.",
                remedy="Copy it whole, or have an admin make one: sdk fleet api-keys add NAME",
            )
        self._pool = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            headers={
                "Authorization": f"Bearer {key}",
                "Accept-Encoding": "identity",
                "User-Agent": "slipway-sdk",
            },
        )

    def __enter__(self) -> FleetClient:
        """Close it when done."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self._pool.clear()

    def ask(self, method: str, *path: str, body: Any = None, **query: Any) -> Any:
        """What the server answers.

        Args:
            method: such as `POST`.
            path: its parts, after `/v1/admin`.
            body: to be sent as JSON, if anything.
            query: those that are None are left out.

        Raises:
            UsageError: it refused what was asked.
            VerificationError: it does not know the key, or the key may not do that.
            NetworkError: it did not answer, is busy, or is no fleet server.
        """
        with self._asked(method, path, body, query) as response:
            content = response.data
        try:
            return json.loads(content)
        except ValueError as error:
            raise _no_server(self.server, "its answer is no JSON") from error

    def pages(
        self, *path: str, most: int | None = None, after: Any = None, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """All items of a list, a page at a time. Raises as `ask` does.

        Args:
            path: as `ask` takes it.
            most: at most so many.
            after: only those that come after this one.
            query: as `ask` takes it.
        """
        left = most
        while left is None or left > 0:
            asked = PAGE if left is None else min(PAGE, left)
            found = self.ask("GET", *path, limit=asked, after=after, **query)
            items, after = found["items"][:left], found["after"]
            yield from items
            left = None if left is None else left - len(items)
            if after is None or not items:
                return

    def stream(self, *path: str, **query: Any) -> Iterator[bytes]:
        """The bytes of a long answer as they come. Raises as `ask` does, also in the middle."""
        import urllib3

        with self._asked("GET", path, None, query, preload=False) as response:
            try:
                yield from response.stream(_CHUNK_BYTES)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _cut_off(self.server, error) from error

    def file(self, path: str) -> Iterator[bytes]:
        """A file of the server's, in pieces; nothing where there is none. Raises as `stream`."""
        import urllib3

        with self._line("GET", f"{self.server}/{urllib.parse.quote(path)}") as response:
            if response.status == 404:
                return
            if response.status != 200:
                raise _refusal(self.server, response.status, response.data)
            try:
                yield from response.stream(_CHUNK_BYTES)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _cut_off(self.server, error) from error

    def length(self, path: str) -> int | None:
        """How long a file of the server's is; None where there is none. Raises as `ask`."""
        with self._line("HEAD", f"{self.server}/{urllib.parse.quote(path)}") as response:
            told = response.headers.get("Content-Length", "")
            return int(told) if response.status == 200 and told.isdigit() else None

    def put(self, *path: str, content: Iterator[bytes], length: int) -> None:
        """Send a file to the admin API. Raises as `ask`."""
        url = "/".join((self.server, "v1/admin", *(urllib.parse.quote(part, "") for part in path)))
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        with self._line("PUT", url, content, headers) as response:
            if response.status != 200:
                raise _refusal(self.server, response.status, response.data)

    @contextlib.contextmanager
    def _line(
        self, method: str, url: str, body: Any = None, more: dict[str, str] | None = None
    ) -> Iterator[Any]:
        import urllib3

        headers = {**self._pool.headers, **(more or {})}
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _unreachable(self.server, error) from error
        try:
            yield response
        finally:
            response.close()

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: tuple[str, ...], body: Any, query: Any, *, preload: bool = True
    ) -> Iterator[Any]:
        import urllib3

        url = "/".join((self.server, "v1/admin", *(urllib.parse.quote(part, "") for part in path)))
        told = {name: value for name, value in query.items() if value is not None}
        url += f"?{urllib.parse.urlencode(told)}" if told else ""
        headers = dict(self._pool.headers)
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            response = self._pool.request(
                method, url, body=content, headers=headers, redirect=False, preload_content=preload
            )
            if response.status != 200:
                raise _refusal(self.server, response.status, response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _unreachable(self.server, error) from error
        try:
            yield response
        finally:
            response.close()


def _checked(server: str) -> str:
    """An address, without the slash at its end."""
    try:
        parts = urllib.parse.urlsplit(server)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"{server!r} is no server's address.",
            cause="It has a scheme and a host, and no query; the key is not part of it.",
            remedy="Name one, or set $SLIPWAY_SERVER: --server https://fleet.example.org",
        )
    return server.rstrip("/")


def _refusal(server: str, status: int, content: bytes) -> SlipwayError:
    """What a server said that did not do what was asked, as one of our errors."""
    try:
        told = json.loads(content)["error"]
        code, what = str(told["code"]), str(told["what"])
        cause, remedy = str(told.get("cause", "")), str(told.get("remedy", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return _no_server(server, f"it answered {status}")
    kind: type[SlipwayError] = UsageError
    if status in (401, 403):
        kind = VerificationError
    elif status >= 500 or code in ("busy", "slow"):
        kind = NetworkError
    return kind(what, cause=cause, remedy=remedy)


def _unreachable(server: str, error: Exception) -> NetworkError:
    return NetworkError(
        f"The fleet server at {server} cannot be reached: {type(error).__name__}: {error}.",
        cause="It does not run, listens at another address, or the network is down.",
        remedy="Start it (sdk fleet serve), or name another one: --server URL",
    )


def _cut_off(server: str, error: Exception) -> NetworkError:
    return NetworkError(
        f"The answer of {server} ended too early: {type(error).__name__}: {error}.",
        cause="The server was stopped, its database went away, or the network did.",
        remedy="Ask again.",
    )


def _no_server(server: str, why: str) -> NetworkError:
    return NetworkError(
        f"{server} does not answer as a fleet server does: {why}.",
        cause="A proxy or another service answers there, or it lies under another path.",
        remedy="Name the server's own address: --server URL",
    )
