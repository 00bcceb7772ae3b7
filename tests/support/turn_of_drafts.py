"""`iceagent` whose TURN server knows ADDITIONAL-ADDRESS-FAMILY by the number that drafts of RFC 8656 gave it.

coturn and its clients used 0x8032 up to version 4.6, as Debian has it; the RFC says 0x8000. The attribute is
comprehension-optional, so a server that goes by the RFC overlooks it and allocates an IPv4 address alone.
"""

from __future__ import annotations

from iceagent.cli import main
from iceagent.core.stun import AdditionalAddressFamily, registry

DRAFT_TYPE = 0x8032

if __name__ == "__main__":
    registry.DECODERS[DRAFT_TYPE] = AdditionalAddressFamily.decode_value
    main()
