"""SSH to a rig: the host's key is known or the connection is refused; nothing goes through a shell.

The one command that is run there is a constant: it lets Python read a program. The program's name
of that Python comes from the inventory, which takes plain characters only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko

from agent.errors import NetworkError, UsageError, VerificationError
from agent.files import write_atomic
from hil.inventory import Inventory, RigEntry
from hil.line import Words

CONNECT_S = 15.0
ALIVE_S = 5
"""How often the connection is asked whether it lives."""
READ = "import sys;r=sys.stdin.buffer;exec(r.read(int(r.readline())))"
_COMMAND = f"exec {{}} -u -c '{READ}'"
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
"""paramiko begins with aes128-ctr, which takes longer (docs/explanation/speed.md)."""
_WINDOW_BYTES = 16 << 20


class SshLine:
    """A program on the rig, over a connection of its own."""

    def __init__(self, clients: Sequence[paramiko.SSHClient], command: str) -> None:
        self._clients = clients
        transport = clients[-1].get_transport()
        assert transport is not None
        self._channel = transport.open_session(window_size=_WINDOW_BYTES)
        self._channel.exec_command(command)
        self._reads = self._channel.makefile("rb", 1 << 16)
        self._words = Words(self._channel.recv_stderr)

    def write(self, content: bytes | memoryview) -> None:
        """See `hil.line.Line`."""
        try:
            self._channel.sendall(bytes(content))
        except (EOFError, paramiko.SSHException) as error:  # the line has ended under it
            raise OSError(_plain(error)) from error

    def readline(self) -> bytes:
        """See `hil.line.Line`."""
        found: bytes = self._reads.readline()
        return found

    def read(self, length: int) -> bytes:
        """See `hil.line.Line`."""
        found: bytes = self._reads.read(length)
        return found

    def last_words(self) -> str:
        """See `hil.line.Line`."""
        return self._words.text()

    def close(self) -> None:
        """See `hil.line.Line`."""
        for client in (*reversed(self._clients),):
            with contextlib.suppress(Exception):
                client.close()


def open_line(entry: RigEntry, inventory: Inventory, known_hosts: Path) -> SshLine:
    """Reach a rig, and start its Python.

    Args:
        entry: the rig.
        inventory: to look up what it is reached through.
        known_hosts: keys that were taken by us; those of the user's own file count as well.

    Raises:
        NetworkError: it does not answer, or lets nobody in.
        VerificationError: its key is not known, or is not the one that is known.
        UsageError: its key file or passphrase is not here.
    """
    with _closed_on_error() as clients:
        if entry.jump is not None:
            clients.append(_connected(inventory.rig(entry.jump), known_hosts, None))
            over = _through(clients[-1], entry)
            clients.append(_connected(entry, known_hosts, over))
        else:
            clients.append(_connected(entry, known_hosts, None))
        try:
            command = f"exec {entry.runner}" if entry.runner else _COMMAND.format(entry.python)
            return SshLine(tuple(clients), command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _unreachable(entry, f"it starts nothing: {error}") from error


def host_key(entry: RigEntry, inventory: Inventory, known_hosts: Path) -> paramiko.PKey:
    """The key that a host shows, whoever it is: to be compared, and then taken.

    Raises:
        NetworkError: it does not answer.
    """
    with _closed_on_error() as clients:
        over: Any = None
        if entry.jump is not None:
            clients.append(_connected(inventory.rig(entry.jump), known_hosts, None))
            over = _through(clients[-1], entry)
        try:
            over = over or socket.create_connection((entry.host, entry.port), timeout=CONNECT_S)
            transport = paramiko.Transport(over)
            try:
                transport.start_client(timeout=CONNECT_S)
                return transport.get_remote_server_key()
            finally:
                transport.close()
                for client in clients:
                    client.close()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _unreachable(entry, _plain(error)) from error


def key_name(key: paramiko.PKey) -> str:
    """A key as `ssh-keygen -l` shows it: `SHA256:...`."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def trust(entry: RigEntry, key: paramiko.PKey, known_hosts: Path) -> None:
    """Take a host's key from now on.

    Raises:
        StorageError: the file cannot be written.
    """
    name = _host_name(entry)
    before = known_hosts.read_text().splitlines() if known_hosts.exists() else []
    others = [line for line in before if not line.startswith(f"{name} ")]
    lines = [*others, f"{name} {key.get_name()} {key.get_base64()}", ""]
    write_atomic(known_hosts, "\n".join(lines).encode(), mode=0o600)


def _connected(entry: RigEntry, known_hosts: Path, over: Any) -> paramiko.SSHClient:
    client = _client(known_hosts)
    try:
        client.connect(
            entry.host,
            entry.port,
            username=entry.user,
            key_filename=_key_file(entry),
            passphrase=_passphrase(entry),
            allow_agent=entry.key is None,
            look_for_keys=entry.key is None,
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
            sock=over,
            transport_factory=_transport,
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise VerificationError(
            f"{_host_name(entry)} shows the key {key_name(error.key)}; known is "
            f"{key_name(error.expected_key)}.",
            cause="The rig was installed anew, another machine has its address, or somebody "
            "listens in between.",
            remedy=f"If it was installed anew: sdk hil add {entry.name} --again; what "
            f"~/.ssh/known_hosts says of it goes by: ssh-keygen -R '{_host_name(entry)}'",
        ) from error
    except paramiko.PasswordRequiredException as error:
        client.close()
        raise UsageError(
            f"The key {entry.key} needs a passphrase.",
            remedy="Load it into the SSH agent, or name a variable that holds it: passphrase_env",
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise NetworkError(
            f"{entry.user or 'this user'}@{_host_name(entry)} is not let in: {_plain(error)}.",
            cause="The key is not in that user's authorized_keys, or needs a passphrase.",
            remedy="ssh-copy-id there; name the key's file as `key`, and the variable that holds "
            "its passphrase as `passphrase_env`.",
        ) from error
    except _UnknownHostError as error:
        client.close()
        raise VerificationError(
            f"The key of {_host_name(entry)} is not known: {error}.",
            cause="It was never reached from here.",
            remedy=f"Compare it with what the rig shows (ssh-keygen -lf /etc/ssh/ssh_host_*.pub), "
            f"then: sdk hil add {entry.name} --again",
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        client.close()
        raise _unreachable(entry, _plain(error)) from error
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(ALIVE_S)
    return client


class _UnknownHostError(paramiko.SSHException):
    """A host whose key nobody knows."""


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        del client, hostname
        raise _UnknownHostError(f"it shows {key_name(key)}")


def _client(known_hosts: Path) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    with contextlib.suppress(OSError):
        client.load_system_host_keys()
    if known_hosts.exists():
        client.load_host_keys(str(known_hosts))
    client.set_missing_host_key_policy(_Refuse())
    return client


def _transport(*arguments: Any, **named: Any) -> paramiko.Transport:
    transport = paramiko.Transport(*arguments, **named)
    options = transport.get_security_options()
    options.ciphers = [*_CIPHERS, *(one for one in options.ciphers if one not in _CIPHERS)]
    return transport


def _through(client: paramiko.SSHClient, entry: RigEntry) -> Any:
    transport = client.get_transport()
    assert transport is not None
    try:
        return transport.open_channel(
            "direct-tcpip", (entry.host, entry.port), ("127.0.0.1", 0), timeout=CONNECT_S
        )
    except (paramiko.SSHException, OSError) as error:
        raise _unreachable(entry, f"its jump host cannot reach it: {error}") from error


def _key_file(entry: RigEntry) -> str | None:
    if entry.key is None:
        return None
    path = Path(entry.key).expanduser()
    if not path.is_file():
        raise UsageError(
            f"The key {path} of {entry.name} is not here.",
            cause="The inventory names a file of another machine.",
            remedy="Correct `key`, or leave it out to use the SSH agent.",
        )
    return str(path)


def _passphrase(entry: RigEntry) -> str | None:
    if entry.passphrase_env is None:
        return None
    found = os.environ.get(entry.passphrase_env)
    if found is None:
        raise UsageError(
            f"${entry.passphrase_env} is not set; it holds the passphrase of {entry.key}.",
            remedy="Set it, or load the key into the SSH agent.",
        )
    return found


def _host_name(entry: RigEntry) -> str:
    return entry.host if entry.port == 22 else f"[{entry.host}]:{entry.port}"


def _plain(error: Exception) -> str:
    return str(error).rstrip(". ") or type(error).__name__


def _unreachable(entry: RigEntry, why: str) -> NetworkError:
    return NetworkError(
        f"The rig {entry.name} cannot be reached at {entry.host}:{entry.port}: {why}.",
        cause="It is off, the network is down, or no SSH server listens there.",
        remedy="Try: ssh, with the same user, host and port. Then: sdk hil doctor " + entry.name,
    )


@contextlib.contextmanager
def _closed_on_error() -> Iterator[list[paramiko.SSHClient]]:
    clients: list[paramiko.SSHClient] = []
    try:
        yield clients
    except BaseException:
        for client in reversed(clients):
            client.close()
        raise
