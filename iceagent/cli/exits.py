"""Exit codes: the one table of them, and which error has which."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the command line tells a script. Documented in docs/cli.md; numbers never change their meaning."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    RELAY = 3
    CODE = 4
    NO_PATH = 5
    NOBODY_CAME = 6
    NOT_DIRECT = 7
    REFUSED = 8
    LOCAL_IO = 9
    VERSION = 10
    INTERRUPTED = 130


def exit_of(error: BaseException) -> Exit:
    """Return the exit code of an error: that of the nearest class in the table."""
    table = _table()
    for kind in type(error).__mro__:
        if kind in table:
            return table[kind]
    return Exit.INTERNAL


def _table() -> dict[type, Exit]:
    """Return the table; imported here because most runs need none of it."""
    from iceagent import errors
    from iceagent.link import errors as link
    from iceagent.session import errors as session
    from iceagent.tunnel import errors as tunnel

    return {
        session.RelayError: Exit.RELAY,
        session.RelayMissing: Exit.USAGE,
        session.CodeError: Exit.CODE,
        session.NobodyCame: Exit.NOBODY_CAME,
        session.VersionMismatch: Exit.VERSION,
        session.NoPath: Exit.NO_PATH,
        session.NotDirect: Exit.NOT_DIRECT,
        session.NoLink: Exit.NO_PATH,
        session.PeerLost: Exit.NO_PATH,
        session.PeerLeft: Exit.NO_PATH,
        session.PeerTurnedAway: Exit.REFUSED,
        session.IdentityError: Exit.LOCAL_IO,
        tunnel.SpecError: Exit.USAGE,
        tunnel.RefusedError: Exit.REFUSED,
        tunnel.FailedError: Exit.REFUSED,
        link.AuthenticationError: Exit.REFUSED,
        link.LinkError: Exit.NO_PATH,
        link.WishRefused: Exit.REFUSED,
        errors.LocalIOError: Exit.LOCAL_IO,
        errors.LocalError: Exit.USAGE,
        errors.RemoteError: Exit.REFUSED,
        errors.NetworkError: Exit.NO_PATH,
        KeyboardInterrupt: Exit.INTERRUPTED,
    }
