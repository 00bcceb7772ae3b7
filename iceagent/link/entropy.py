"""The QUIC library's first random number, ahead of time: it takes longer than the whole handshake that needs it."""

from __future__ import annotations

import threading

from iceagent.link.partial import put_off

_begun = threading.Event()


def gather_entropy(backend: str = "qh3") -> None:
    """Have the library seed its generator now, in a thread of its own: once per process, and nobody need wait for it.

    `qh3` (aws-lc) measures the jitter of the processor for some 60 ms as it makes its first key. Left to the handshake,
    both sides would do so one after the other, with everybody waiting. It lets other threads run meanwhile.
    """
    if backend != "qh3" or _begun.is_set():
        return
    _begun.set()
    put_off("qh3")
    try:
        from qh3._hazmat import X25519KeyExchange
    except ImportError:  # another version: what is missing is reported when a link opens, and this is only about time
        return
    threading.Thread(target=X25519KeyExchange, name="iceagent entropy").start()
