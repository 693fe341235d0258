"""`sdk init`: a new project that builds at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from agent.errors import UsageError
from agent.files import write_atomic
from sdk.cli.output import err_console

EXAMPLE = "Example: sdk init my-model && sdk build my-model"


def init(
    folder: Annotated[Path, typer.Argument(help="A folder; made if it is not there.")] = Path(),
    name: Annotated[str | None, typer.Option("--name", help="The model's name.")] = None,
) -> None:
    """Write a small project: sdk.toml, model.py, data.py. Nothing that exists is replaced."""
    template = resources.files("sdk.cli") / "template"
    files = {entry.name: entry.read_text() for entry in template.iterdir() if entry.is_file()}
    present = [file for file in files if (folder / file).exists()]
    if present:
        raise UsageError(
            f"{folder} already has {', '.join(present)}.",
            cause="It is a project, or holds files of the same names.",
            remedy="Name another folder: sdk init FOLDER",
        )
    model = name or folder.resolve().name.lower().replace(" ", "-")
    for file, content in files.items():
        write_atomic(folder / file, content.replace("@MODEL@", model).encode())
    err_console().print(f"written: {', '.join(str(folder / file) for file in sorted(files))}")
    err_console().print(f"next: sdk build {folder} --target intel --profile host", markup=False)
