"""Why two sides could not connect, or were disconnected. The command line has an exit code for each (`cli.exits`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.errors import IceError, LocalError, NetworkError, RemoteError

if TYPE_CHECKING:
    from iceagent.agent.explain import Verdict


_MAX_SHOWN = 20


class SessionError(IceError):
    """The base of these. `verdict` is that of the agent (`Agent.explain()`), None if there was no agent."""

    verdict: Verdict | None = None


class RelayError(NetworkError, SessionError):
    """The signaling relay cannot be reached, or went away before the two sides were connected."""


class RelayMissing(LocalError, SessionError):
    """No relay was named, and the code carries no address of one."""


class CodeError(RemoteError, SessionError):
    """The code is wrong, expired, used up or in use by somebody else; a new one is needed."""


class NobodyCame(NetworkError, SessionError):
    """The other side did not show itself in the time the caller gave it."""


class VersionMismatch(RemoteError, SessionError):
    """The two sides, or one of them and the relay, speak versions that do not understand each other."""


def shown_version(value: object) -> str:
    """Return what the other side says of its version, cut: it may be anything that a message can hold."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class NoPath(NetworkError, SessionError):
    """Both sides are there, but no network path leads from one to the other."""


class NotDirect(NoPath):
    """A direct path was required, and only a relayed one is possible."""


class NoLink(NetworkError, SessionError):
    """A path leads to the other side, but the link over it did not come about."""


class PeerLost(NetworkError, SessionError):
    """The other side was connected, and nothing leads to it any more; or this machine has lost its own network."""


class PeerLeft(RemoteError, SessionError):
    """The other side closed the session before it was done, or was gone before it was open."""


class PeerTurnedAway(PeerLeft):
    """The other side asked for what is not allowed here, and left."""


class WordsRefused(RemoteError, SessionError):
    """Whoever compared the five words said that they differ: nothing was opened."""


class IdentityError(LocalError, SessionError):
    """The file of our identity or of our peers cannot be used: damaged, readable by others, not to be written."""


class UnknownPeer(LocalError, SessionError):
    """No paired peer has this name."""


class PeerNotPinned(RemoteError, SessionError):
    """Whoever is there is not the peer that was paired, or does not take us for the one."""
