"""The app: its verbs, and what an error looks like."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from agent.errors import SlipwayError
from agent.files import storage_error
from sdk import __version__
from sdk.cli import build, fit, fleet, hil, init, keys, look, profiles, release, report, variants
from sdk.cli.missing import as_missing

_INTERRUPTED = 130

app = typer.Typer(
    name="sdk",
    help="One PyTorch model in; for every kind of device a variant that is proven to fit.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: sdk build docs/examples/digits --target intel --profile host",
)
app.command("init", epilog=init.EXAMPLE)(init.init)
app.command("doctor", epilog=look.DOCTOR_EXAMPLE)(look.doctor)
app.command("targets", epilog=look.TARGETS_EXAMPLE)(look.targets)
app.add_typer(profiles.profiles_app, name="profiles")
app.command("build", epilog=build.EXAMPLE)(build.build)
app.command("fit", epilog=fit.EXAMPLE)(fit.fit)
app.command("bench", epilog=variants.BENCH_EXAMPLE)(variants.bench)
app.command("verify", epilog=variants.VERIFY_EXAMPLE)(variants.verify)
app.command("compare", epilog=variants.COMPARE_EXAMPLE)(variants.compare)
app.command("report", epilog=report.EXAMPLE)(report.report)
app.command("accept", epilog=look.ACCEPT_EXAMPLE)(look.accept)
app.command("history", epilog=look.HISTORY_EXAMPLE)(look.history)
app.add_typer(keys.keys_app, name="keys")
app.command("publish", epilog=release.PUBLISH_EXAMPLE)(release.publish)
app.command("assign", epilog=release.ASSIGN_EXAMPLE)(release.assign)
app.command("revoke", epilog=release.REVOKE_EXAMPLE)(release.revoke)
app.add_typer(release.repo_app, name="repo")
app.add_typer(fleet.fleet_app, name="fleet")
app.add_typer(hil.hil_app, name="hil")


def _show_version(value: bool) -> None:  # noqa: FBT001  typer's callback form
    if value:
        typer.echo(f"slipway-sdk {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what holds for every verb."""


def run(arguments: list[str]) -> int:
    """Run one command; the exit code is that of agent.errors."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, standalone_mode=False, prog_name="sdk")
    except SlipwayError as error:
        return _say(error, debug=debug)
    except OSError as error:
        return _say(storage_error(error, Path(str(error.filename or "?"))), debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except typer.Exit as request:
        return request.exit_code
    except ModuleNotFoundError as error:
        lacking = as_missing(error)
        return _bug(debug=debug) if lacking is None else _say(lacking, debug=debug)
    except Exception as error:  # noqa: BLE001  the one place where a bug ends
        return _usage(error) if hasattr(error, "format_message") else _bug(debug=debug)
    if code == _INTERRUPTED:  # typer makes this of Ctrl-C itself, and says nothing
        typer.echo("interrupted; the next run resumes where this one stopped", err=True)
    return code if isinstance(code, int) else 0


def _say(error: SlipwayError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    typer.echo(f"error: {error.what}", err=True)
    for part in (error.cause, error.remedy):
        if part:
            typer.echo(f"       {part}", err=True)
    return error.exit_code


def _usage(error: Exception) -> int:
    """A command line that typer refused; it knows the message and the code."""
    typer.echo(f"error: {error.format_message()}", err=True)  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if context is not None:
        typer.echo(f"       Try: {context.command_path} --help", err=True)
    return int(getattr(error, "exit_code", 2))


def _bug(*, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with tempfile.NamedTemporaryFile(
        "w", prefix="slipway-bug-", suffix=".txt", delete=False
    ) as kept:
        traceback.print_exc(file=kept)
    last = traceback.format_exc().strip().splitlines()[-1]
    typer.echo(f"error: this is a bug in Slipway: {last}", err=True)
    typer.echo(f"       The traceback is in {kept.name}; please report it.", err=True)
    return 1
