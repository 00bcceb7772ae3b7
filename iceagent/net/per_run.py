"""One value per Trio run, shared by all agents of a process; it ends with the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class PerRun(Generic[T]):
    """A value that is made when it is asked for first, anew in each run.

    Args:
        name: for whoever looks at Trio's run variables.
        make: makes it.
    """

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._variable: trio.lowlevel.RunVar[T] = trio.lowlevel.RunVar(name)
        self._make = make

    def get(self) -> T:
        """Return the value of the present run.

        Raises:
            RuntimeError: there is none.
        """
        try:
            return self._variable.get()
        except LookupError:
            made = self._make()
            self._variable.set(made)
            return made
