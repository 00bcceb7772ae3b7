"""From where a code of `listen` without a relay can be used."""

from __future__ import annotations

import pytest

from iceagent.cli.code_reach import reach_of


@pytest.mark.parametrize(
    ("address", "where", "words"),
    [
        ("127.0.0.1:4000", "machine", "only on this machine"),
        ("[::1]:4000", "machine", "only on this machine"),
        ("192.168.1.5:4000", "network", "only from this network (192.168.1.5)"),
        ("10.1.2.3:4000", "network", "only from this network"),
        ("100.64.3.4:4000", "network", "only from this network"),
        ("169.254.3.4:4000", "network", "only from this network"),
        ("[fd00::2]:4000", "network", "only from this network ([fd00::2])"),
        ("[fe80::2%eth0]:4000", "network", "only from this network"),
        ("8.8.4.4:4000", "anywhere", "from anywhere that reaches 8.8.4.4, TCP port 4000"),
        ("[2606:4700::1]:4000", "anywhere", "from anywhere that reaches [2606:4700::1], TCP port 4000"),
    ],
)
def test_the_address_in_a_code_says_from_where_it_can_be_used(address: str, where: str, words: str) -> None:
    """Else the other side finds out, after a minute, in a hotel far away."""
    reach = reach_of(f"7-guitar-ozone@{address}")
    assert reach is not None
    assert reach.where == where
    assert words in reach.text
    assert "--relay URL" in reach.text, "and what to do otherwise"


@pytest.mark.parametrize(
    "code",
    ["7-a-b", "7-a-b@wss://relay.example", "7-a-b@ws://192.0.2.1:80", "7-a-b@relay.example:1"],
)
def test_nothing_is_said_of_a_relay_elsewhere(code: str) -> None:
    """It is there for both."""
    assert reach_of(code) is None
