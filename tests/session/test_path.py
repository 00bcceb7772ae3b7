"""The path as users see it: one line, and never a mystery why."""

from __future__ import annotations

from iceagent.core.address import make_address
from iceagent.session.path import Path

HERE, THERE = make_address("192.0.2.1", 1000), make_address("203.0.113.5", 41000)


def test_a_direct_path_is_its_address_and_round_trip() -> None:
    """What there is to know of it, and no more."""
    assert str(Path(True, "udp", HERE, THERE, 0.0181)) == "direct udp 203.0.113.5:41000 rtt 18 ms"


def test_a_relayed_path_says_why() -> None:
    """It is slow and I cannot see why: that is what users of other tools complain about."""
    path = Path(False, "turn-udp", HERE, THERE, None, because="both NATs map per destination")
    assert str(path) == "relayed turn-udp 203.0.113.5:41000 (both NATs map per destination)"


def test_a_new_round_trip_or_reason_is_no_new_route() -> None:
    """Otherwise the line would be printed again and again."""
    path = Path(False, "turn-udp", HERE, THERE, 0.01, because="one reason")
    assert Path(False, "turn-udp", HERE, THERE, 0.02, because="another").same_route(path)
