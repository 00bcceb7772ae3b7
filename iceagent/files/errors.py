"""What can go wrong with a transfer of files, apart from the link itself and this machine's own disk."""

from __future__ import annotations

from iceagent.errors import RemoteError


class TransferRefused(RemoteError):
    """The files were not accepted, by the other side or here: by its user, or because something would be lost."""


class TransferFailed(RemoteError):
    """The other side could not send or receive everything, or broke the protocol."""
