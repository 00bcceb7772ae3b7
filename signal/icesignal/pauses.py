"""When a client connects to its relay again after a connection has ended, and how long that takes at most."""

from __future__ import annotations

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0  # each is twice the one before
TOO_FAST_PAUSE_S = 2.0
JITTER = 0.25  # more or less
TIMEOUT_S = 10.0  # for the relay to answer
BACK_S = 18.0
"""Ours: until whoever is able to is back after its connection was cut. An attempt may hang for `TIMEOUT_S` where a
gateway is starting, `LONGEST_PAUSE_S` and its jitter follow, and the next attempt takes 1.75 s, lost packet included.
Source: docs/relay-protocol.md section 4."""


def longer(pause_s: float) -> float:
    """Return the pause after one that was in vain."""
    return min(2 * pause_s, LONGEST_PAUSE_S)


def jittered(pause_s: float, byte: int) -> float:
    """Return a pause, seconds, more or less by chance: `byte` is a random one."""
    return pause_s * (1.0 - JITTER + 2.0 * JITTER * byte / 255)
