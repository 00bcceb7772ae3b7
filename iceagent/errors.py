"""The errors that a user of iceagent can get. Each message says what happened and what to do next."""

from __future__ import annotations


class IceError(Exception):
    """Anything iceagent raises on purpose."""


class LocalError(IceError):
    """The caller's mistake: a wrong argument, a method called out of order, a local policy that forbids it."""


class WrongType(LocalError, TypeError):
    """An argument of another type than the function takes, refused at the call."""


class LocalIOError(LocalError):
    """Our own machine would not read or write: standard output is closed, a disk full."""


class RemoteError(IceError):
    """The peer's fault: it refused, left, broke the protocol or proved to be somebody else."""


class NetworkError(IceError):
    """Nobody's fault but the network's: no path, a server that does not answer, a path that died."""
