"""Datagrams that look like STUN, as far as they can be judged before anybody knows whom they are for."""

from __future__ import annotations

from iceagent.core import stun
from iceagent.core.ice.events import DropReason


def read_message(data: bytes) -> stun.Message | DropReason | None:
    """Return the check or the answer to one, why it is dropped, or None for a keepalive."""
    try:
        message = stun.decode(data)
    except stun.StunError:
        return DropReason.STUN_MALFORMED
    fingerprint = message.verify_fingerprint()
    kind = message.message_class
    # RFC 8445 section 7.1: checks and their responses carry a FINGERPRINT; without that rule a bit flipped in its
    # type would make it an unknown attribute and pass.
    if fingerprint is False or (fingerprint is None and kind is not stun.MessageClass.INDICATION):
        return DropReason.STUN_FINGERPRINT
    if message.method != stun.Method.BINDING:
        return DropReason.STUN_METHOD
    return None if kind is stun.MessageClass.INDICATION else message  # a keepalive proves nothing (trap 14)
