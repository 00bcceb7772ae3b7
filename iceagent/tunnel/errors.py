"""What can go wrong with a forward, apart from the link itself."""

from __future__ import annotations

from iceagent.errors import LocalError, LocalIOError, RemoteError
from iceagent.link.errors import PeerRefused

__all__ = ["BindError", "FailedError", "LocalIOError", "RefusedError", "SpecError"]


class SpecError(LocalError):
    """A forward or an allow rule is not written as it must be; the message shows one that is."""


class BindError(LocalIOError):
    """A local socket cannot be opened: the port is taken, the path exists, the permission is missing."""


class RefusedError(PeerRefused):
    """The other side does not let us reach this; its user decides with `--allow`."""


class FailedError(RemoteError):
    """The other side would let us, but could not reach the target itself (connection refused, no such host).

    Attributes:
        cause: one of `CAUSES` where it is known, for programs that speak a protocol with codes; else empty.
    """

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


CAUSES = ("refused", "network", "host", "timeout", "busy")
"""Nobody listens there; no way leads there; no such host; no answer; as many connections as there can be."""
