"""Names of packages that are looked up when they are used, for imports take seconds; and modules' former names."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def looked_up(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A `__getattr__` for a package; `homes` holds the names that each of its modules gives."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def getattr_(name: str) -> Any:
        if name in home_of:
            return getattr(import_module(f"{package}.{home_of[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_


class FormerNames(MetaPathFinder, Loader):
    """Lets modules be imported by the names they had: notebooks of users hold those."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self.homes = homes

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.homes else None

    def exec_module(self, module: ModuleType) -> None:
        home = self.homes[module.__name__]
        vars(module)["__getattr__"] = lambda name: getattr(import_module(home), name)


def still_importable(homes: Mapping[str, str]) -> None:
    """Make modules importable by their former names, `homes`' keys."""
    sys.meta_path.insert(0, FormerNames(homes))  # before finders that may know an older installation
