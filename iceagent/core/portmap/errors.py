"""Why the bytes of a port mapping protocol are malformed."""

from __future__ import annotations

from enum import Enum

from iceagent.errors import RemoteError


class CodecReason(Enum):
    """What is wrong with a packet; the name under which a machine counts it."""

    LENGTH = "length"
    VERSION = "version"
    OPCODE = "opcode"
    OPTION = "option"
    VALUE = "value"


class PortMappingCodecError(RemoteError, ValueError):
    """The bytes are no packet of the protocol."""

    def __init__(self, reason: CodecReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
