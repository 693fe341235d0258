"""Run a user's functions, and know what they read.

Modules are loaded under private names, so that a user's `model.py` and ours never meet. What the
code imports, opens and lists is recorded: that is the depfile, and a change in any of it rebuilds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.errors import CaptureError
from agent.files import sha256_of

HASHED_UP_TO_BYTES = 64 << 20
"""Larger files are told apart by size and time of change; hashing them would cost every rebuild."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depfile:
    """What a step read, so that a later run can tell whether its result still holds."""

    files: dict[str, str]
    """Path -> sha256, or `size:mtime_ns` of a file over `HASHED_UP_TO_BYTES`."""
    folders: dict[str, str]
    """Folder that was listed -> digest of the names in it."""
    packages: dict[str, str]
    """Imported distribution -> version."""


def file_state(path: Path, digest: Callable[[Path], str] = sha256_of) -> str:
    """What stands for a file's content in a depfile; empty if it is gone."""
    try:
        found = path.stat()
        if found.st_size > HASHED_UP_TO_BYTES:
            return f"{found.st_size}:{found.st_mtime_ns}"
        return digest(path)
    except OSError:
        return ""


def folder_state(path: Path) -> str:
    """What stands for a folder's list of names; empty if it is gone."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.name != "__pycache__")
    except OSError:
        return ""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


class Recorder:
    """Records reads from the moment it is made; one per process, as hooks cannot be removed."""

    def __init__(self, ignored: tuple[Path, ...]) -> None:
        self._ignored = tuple(str(path) for path in (*ignored, *_library_folders()))
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._active = True
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active or not arguments:
            return
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, (str, bytes)) and not writes and not _is_write(mode):
                self._files.add(os.path.abspath(os.fsdecode(path)))
        elif event in ("os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
            # Importing, and looking for plugins, lists every folder on the path; a new file there
            # changes nothing by itself.
            if "importlib" in sys._getframe(1).f_code.co_filename:  # noqa: SLF001
                return
            self._folders.add(os.path.abspath(os.fsdecode(arguments[0])))

    def note(self, path: Path) -> None:
        """Note a read that Python does not see: libraries in C++ or Rust open files themselves."""
        self._files.add(os.path.abspath(path))

    def depfile(self) -> Depfile:
        """Stop recording, and say what was read and is still there."""
        self._active = False
        # A module loaded from its .pyc was read through the .pyc: name its source instead.
        modules = {
            str(origin)
            for module in list(sys.modules.values())
            if (origin := getattr(module, "__file__", None))
        }
        files = {
            path
            for path in self._files | modules
            if not path.startswith(self._ignored) and not path.endswith(".pyc")
        }
        return Depfile(
            files={path: file_state(Path(path)) for path in sorted(files) if Path(path).is_file()},
            folders={
                path: folder_state(Path(path))
                for path in sorted(self._folders)
                if not path.startswith(self._ignored) and Path(path).is_dir()
            },
            packages=_imported_packages(),
        )


def load_function(project_root: Path, file: str, function: str, what: str) -> Any:
    """Import `file` under a private name and return its function.

    Raises:
        CaptureError: importing raises, or there is no such function.
    """
    name = f"_slipway_user_{Path(file).stem}"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, project_root / file)
        if spec is None or spec.loader is None:
            raise CaptureError(f"{file} cannot be imported.", remedy="Name a Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickling look modules up by name
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise user_error(
                f"Importing {file} raised", error, project_root, remedy="Correct that line."
            ) from error
    found = getattr(module, function, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)] or ["none"]
        raise CaptureError(
            f"{file} has no function {function!r} for {what}; it has {', '.join(functions)}.",
            cause="The name in sdk.toml is misspelt, or the function was renamed.",
            remedy="Correct sdk.toml.",
        )
    return found


def user_error(what: str, error: BaseException, project_root: Path, *, remedy: str) -> CaptureError:
    """A CaptureError that names the user's own line."""
    place = user_line(error, project_root)
    where = f" at {place}" if place else ""
    text = str(error).strip().splitlines()
    return CaptureError(
        f"{what} {type(error).__name__}{where}: {text[0] if text else '(no message)'}",
        cause=f"The line is: {source_line(place)}" if place and source_line(place) else "",
        remedy=remedy,
    )


def user_line(error: BaseException, project_root: Path) -> str:
    """`file:line` of the innermost frame in the user's own code, empty if there is none.

    A frame in the project's folder wins over one elsewhere outside the installed packages.
    """
    ours = str(Path(__file__).resolve().parent)
    frames = [
        frame
        for linked in _chain(error)
        for frame in traceback.extract_tb(linked.__traceback__)
        if not frame.filename.startswith((ours, "<"))
    ]
    inside = [frame for frame in frames if frame.filename.startswith(str(project_root) + os.sep)]
    outside = [frame for frame in frames if not frame.filename.startswith(_library_folders())]
    for found in (inside, outside):
        if found:
            return f"{found[-1].filename}:{found[-1].lineno}"
    return ""


def source_line(place: str) -> str:
    """The text of a `file:line`."""
    import linecache

    file, _, line = place.rpartition(":")
    return linecache.getline(file, int(line)).strip() if line.isdigit() else ""


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _is_write(mode: Any) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def _library_folders() -> tuple[str, ...]:
    folders = {
        *sysconfig.get_paths().values(),
        *site.getsitepackages(),
        sys.base_prefix,
        sys.prefix,
        "/proc",
        "/sys",
        "/dev",
        "/etc",
        "/usr",
        "/lib",
    }
    own = Path(__file__).resolve().parent.parent
    return (
        *sorted(folders),
        *(str(own / name) for name in ("agent", "sdk", "targets", "profiles")),
    )


def _imported_packages() -> dict[str, str]:
    roots = {name.split(".")[0] for name in sys.modules}
    found: dict[str, str] = {}
    for package, distributions in importlib.metadata.packages_distributions().items():
        if package in roots:
            for distribution in distributions:
                found[distribution] = importlib.metadata.version(distribution)
    return dict(sorted(found.items()))
