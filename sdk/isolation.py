"""A user's own `agent/` or `targets/` beside `sdk.toml` and ours must not shadow each other.

Our five packages have plain names (docs/adr/0002). Two rules keep the peace. Our own imports always
find ours: the siblings of this file are pinned before anything of a user's can be imported. And
while a user's code runs, their folder answers first for their own packages: `user_imports` swaps
the modules of the names that their folder defines, and swaps them back.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

OWN_PACKAGES = ("agent", "hil", "profiles", "targets", "sdk")
ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds our packages."""


def pin_own_packages() -> None:
    """Import our packages by their place, whatever lies first on the path.

    A script beside a user's `agent/` has that folder first on its path; `from sdk import build`
    must still work there.
    """
    for name in OWN_PACKAGES[:-1]:
        if name not in sys.modules:
            found = importlib.util.find_spec(name)
            origin = Path(found.origin).resolve() if found and found.origin else None
            if origin != ROOT / name / "__init__.py":
                _load_from(name, ROOT / name / "__init__.py")


@contextlib.contextmanager
def user_imports(project_root: Path) -> Iterator[None]:
    """Inside, `import agent` finds the user's `agent/` if `project_root` has one, ours otherwise.

    The folder is appended to the path, so it hides nothing installed; only the names of our own
    packages, where the user has them too, are looked up there first.
    """
    hidden = [name for name in OWN_PACKAGES if _defines(project_root, name)]
    ours = {key: module for key, module in sys.modules.items() if key.split(".")[0] in hidden}
    for key in ours:
        del sys.modules[key]
    finder = _FirstHere(project_root, hidden)
    sys.meta_path.insert(0, finder)
    sys.path.append(str(project_root))
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(project_root))
        for key in [key for key in sys.modules if key.split(".")[0] in hidden]:
            del sys.modules[key]
        sys.modules.update(ours)


class _FirstHere:
    """A finder that answers for a few top-level names from one folder."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder = folder
        self._names = names

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of one of the names; None for every other name, which others then find."""
        del path, target
        if name not in self._names:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [str(self._folder)])


def _defines(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _load_from(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {name} from {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
