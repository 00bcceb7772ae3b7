"""Using a part of a library without paying for the whole of it."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def put_off(package: str) -> None:
    """Let modules of a package be imported without its `__init__`, which runs when somebody asks for a name in it.

    For a package whose `__init__` imports far more than is used here. If it is imported already, or not installed,
    nothing happens.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None or spec.loader is None:
        return
    loader, module = spec.loader, module_from_spec(spec)

    def run(name: str) -> object:
        if find_spec(f"{package}.{name}") is not None:
            raise AttributeError(name)  # `from package import name` takes it for a module then, and imports that
        vars(module).pop("__getattr__", None)
        loader.exec_module(module)
        return getattr(module, name)

    vars(module)["__getattr__"] = run
    sys.modules[package] = module
