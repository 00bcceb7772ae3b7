"""Names for addresses in logs: the same all day, others the next, and no way back to the address.

Within a day an operator sees that it is one source that makes trouble. The key is in memory alone and is thrown away
at midnight (UTC), so that nobody, the operator included, finds out later who it was, or follows anybody over days.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

DAY_S = 86_400
KEY_BYTES = 32
NAME_BYTES = 5  # 40 bits: two of 10,000 sources share a name once in 20,000 days


class Pseudonyms:
    """The names of one process.

    Args:
        unix_time: seconds since 1970.
        randbytes: a cryptographic source of keys.
    """

    def __init__(
        self, unix_time: Callable[[], float] = time.time, randbytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._unix_time = unix_time
        self._randbytes = randbytes
        self._day = -1
        self._key = b""

    def of(self, source: str) -> str:
        """Return today's name of a source; of IPv6 that is a /64, so that its addresses have one name."""
        day = int(self._unix_time() // DAY_S)
        if day != self._day:  # a clock that jumps, back or forth, makes new names: none ever comes back
            self._day, self._key = day, self._randbytes(KEY_BYTES)
        return f"source-{hashlib.blake2b(source.encode(), key=self._key, digest_size=NAME_BYTES).hexdigest()}"
