"""`sdk fleet tokens`, `api-keys`, `audit`: who gets in, who may do what, who did it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from sdk.cli.fleet_common import (
    LOCAL,
    Json,
    KeyFile,
    Most,
    Server,
    ago,
    moment,
    opened,
    say,
    seconds,
    table,
)
from sdk.cli.output import err_console, print_json

TOKENS_ADD_EXAMPLE = "Example: sdk fleet tokens add --group line-3 --valid 2h"
TOKENS_LIST_EXAMPLE = "Example: sdk fleet tokens list"
TOKENS_DROP_EXAMPLE = "Example: sdk fleet tokens drop 9f31c2aa"
KEYS_LIST_EXAMPLE = "Example: sdk fleet api-keys list"
KEYS_ADD_EXAMPLE = "Example: sdk fleet api-keys add dashboard --role viewer"
KEYS_REVOKE_EXAMPLE = "Example: sdk fleet api-keys revoke 51ab09fe"
AUDIT_EXAMPLE = "Example: sdk fleet audit --limit 20"

tokens_app = typer.Typer(name="tokens", help="What lets a device in, once.", no_args_is_help=True)
keys_app = typer.Typer(name="api-keys", help="Keys of operators.", no_args_is_help=True)


@tokens_app.command("add", epilog=TOKENS_ADD_EXAMPLE)
def add_token(
    group: Annotated[str | None, typer.Option("--group", help="The device will be in it.")] = None,
    valid: Annotated[
        str, typer.Option("--valid", metavar="TIME", help="At most a day, such as 2h.")
    ] = "24h",
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make a token, which lets one device in.

    The token alone goes to stdout; it is shown this once.
    """
    body = {"group": group, "valid_s": seconds(valid, "--valid")}
    with opened(server, key_file) as client:
        made = client.ask("POST", "tokens", body=body)
        address = client.server
    if json:
        print_json({**made, "group": group, "server": address})
        return
    console = err_console()
    # Where stderr is kept in a log, the token is not to be in it.
    token = made["token"] if console.is_terminal else "TOKEN"
    told = f"token {made['id']}, good for one device within {valid}. On the device:\n"
    told += f"  sdk-agent enroll {address} --token {token}"
    console.print(told, markup=False, soft_wrap=True)
    say(made["token"])


@tokens_app.command("list", epilog=TOKENS_LIST_EXAMPLE)
def list_tokens(server: Server = LOCAL, key_file: KeyFile = None, json: Json = False) -> None:
    """Tokens, without the tokens; the newest first."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "tokens")["items"]
    if json:
        print_json(found)
        return
    table(
        ("id", "group", "made", "by", "expires", "used by"),
        (
            (
                one["id"], one["group_name"], ago(one["made_s"]), one["made_by"],
                moment(one["expires_s"]), one["used_by"],
            )
            for one in found
        ),
        "There is no token. Make one: sdk fleet tokens add",
    )  # fmt: skip


@tokens_app.command("drop", epilog=TOKENS_DROP_EXAMPLE)
def drop_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="Of the token.")],
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Take a token back."""
    with opened(server, key_file) as client:
        client.ask("DELETE", "tokens", token)
    if json:
        print_json({"token": token, "dropped": True})
        return
    say(f"the token {token} lets nobody in any more")


@keys_app.command("list", epilog=KEYS_LIST_EXAMPLE)
def list_keys(server: Server = LOCAL, key_file: KeyFile = None, json: Json = False) -> None:
    """Operators' keys, without the keys."""
    with opened(server, key_file) as client:
        found = client.ask("GET", "api-keys")["items"]
    if json:
        print_json(found)
        return
    table(
        ("id", "name", "role", "made", "revoked"),
        (
            (one["id"], one["name"], one["role"], moment(one["made_s"]), moment(one["revoked_s"]))
            for one in found
        ),
        "There is no key.",
    )


@keys_app.command("add", epilog=KEYS_ADD_EXAMPLE)
def add_key(
    name: Annotated[str, typer.Argument(help="Whose it is: it is in the audit log.")],
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option("--role", help="Looks; assigns and lets devices in; makes keys."),
    ] = "operator",
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make a key for an operator or a script.

    The key alone goes to stdout; it is shown this once.
    """
    with opened(server, key_file) as client:
        made = client.ask("POST", "api-keys", body={"name": name, "role": role})
    if json:
        print_json({**made, "name": name, "role": role})
        return
    told = f"key {made['id']} of {name}, {role}. Use it as $SLIPWAY_API_KEY."
    err_console().print(told, markup=False, soft_wrap=True)
    say(made["key"])


@keys_app.command("revoke", epilog=KEYS_REVOKE_EXAMPLE)
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID", help="Of the key.")],
    server: Server = LOCAL,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Take a key back: no request counts with it any more."""
    with opened(server, key_file) as client:
        client.ask("DELETE", "api-keys", key)
    if json:
        print_json({"key": key, "revoked": True})
        return
    say(f"the key {key} is revoked")


def audit(
    limit: Most = 100, server: Server = LOCAL, key_file: KeyFile = None, json: Json = False
) -> None:
    """Who changed what, the newest first."""
    from sdk.fleet.client import PAGE

    found: list[dict[str, Any]] = []
    with opened(server, key_file) as client:
        while len(found) < limit:
            asked = min(PAGE, limit - len(found))
            before = found[-1]["id"] if found else None
            items = client.ask("GET", "audit", before=before, limit=asked)["items"]
            found += items
            if len(items) < asked:
                break
    if json:
        print_json(found)
        return
    for one in found:
        said = [f"{name} {value}" for name, value in one["about"].items() if _is_short(value)]
        told = f"{moment(one['at_s'])}  {one['who']} ({one['role']}, {one['address']})"
        say(f"{told}  {one['did']}: {', '.join(said) or '-'}")
    if not found:
        say("Nothing was changed yet.")


def _is_short(value: Any) -> bool:
    """Whether it has a place in a line; `--json` has all."""
    return isinstance(value, str | int | float) and value != ""
