"""Packages that import a module when one of its names is first used: who needs one name loads only that module.

A package's `__init__` shows its names to type checkers as plain imports, under TYPE_CHECKING; at run time its
module-level `__getattr__` and `__dir__` (PEP 562) come from here. After its first use a name is an ordinary attribute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def names_on_demand(
    package: str, names_of: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        names_of: by module, the names that live there, with spaces between them. A module is one of the package's own,
            or begins with `iceagent.`; under "" are modules of the package that are handed out themselves.
    """
    homes = {name: home for home, names in names_of.items() for name in names.split()}
    namespace = vars(sys.modules[package])

    def get_attribute(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not home:
            return import_module(f"{package}.{name}")
        module = import_module(home if home.startswith("iceagent.") else f"{package}.{home}")
        value = namespace[name] = getattr(module, name)
        return value

    def directory() -> list[str]:
        return sorted({*namespace, *homes})

    return get_attribute, directory
