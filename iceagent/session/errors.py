"""Why two sides did not come together, or came apart. The command line has an exit code for each (`cli.exits`)."""

from __future__ import annotations

from iceagent.errors import LocalError, NetworkError, RemoteError


class RelayError(NetworkError):
    """The signaling relay cannot be reached, or went away before the two sides were connected."""


class RelayMissing(LocalError):
    """No relay was named, and the code carries no address of one."""


class CodeError(RemoteError):
    """The code is wrong, expired, used up or in use by somebody else; a new one is needed."""


class NobodyCame(NetworkError):
    """The other side did not show itself in the time the caller gave it."""


class VersionMismatch(RemoteError):
    """The two sides, or one of them and the relay, speak versions that do not understand each other."""


class NoPath(NetworkError):
    """Both sides are there, but no network path leads from one to the other."""


class PeerLost(NetworkError):
    """The other side was connected and has fallen silent."""


class PeerLeft(RemoteError):
    """The other side closed the session on purpose, before it was done."""
