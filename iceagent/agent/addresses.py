"""Which local addresses become host candidates, and in which order of preference."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain, zip_longest
from typing import Final

from iceagent.agent.config import AgentConfig
from iceagent.net.api import InterfaceAddress

MAX_BASES: Final = 16  # ours: sockets per agent; more addresses only add pairs that the peer must check


def choose_addresses(interfaces: Sequence[InterfaceAddress], config: AgentConfig) -> list[InterfaceAddress]:
    """Return the addresses to bind, most preferred first, at most `MAX_BASES`.

    Loopback is used when asked for, or when there is nothing else. Link-local addresses are used when nothing else but
    loopback is there (two machines on one cable). Where an interface has temporary addresses, the lasting ones of the
    same prefix stay private. Families alternate, so that a broken one delays the other by at most one check.

    Source: RFC 8445 section 5.1.1.1, RFC 8421 section 4.
    """
    allowed = [entry for entry in interfaces if _is_allowed(entry, config)]
    real = [entry for entry in allowed if not entry.is_loopback]
    loopback = [entry for entry in allowed if entry.is_loopback]
    routable = _hide_lasting([entry for entry in real if not entry.is_link_local])
    chosen = routable or real
    if config.include_loopback or (config.include_loopback is None and not chosen):
        chosen = chosen + loopback
    return _interleave(chosen)[:MAX_BASES]


def _is_allowed(entry: InterfaceAddress, config: AgentConfig) -> bool:
    family = 6 if ":" in entry.host else 4
    named = config.interfaces is None or any(fnmatchcase(entry.name, pattern) for pattern in config.interfaces)
    return named and family in config.families


def _hide_lasting(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Leave out addresses that allow tracking where a temporary one of the same interface and prefix exists."""
    private = {(entry.name, _prefix(entry)) for entry in entries if entry.is_temporary}
    return [entry for entry in entries if entry.is_temporary or (entry.name, _prefix(entry)) not in private]


def _prefix(entry: InterfaceAddress) -> str:
    return str(ipaddress.ip_interface(f"{entry.host.partition('%')[0]}/{entry.prefix_length}").network)


def _interleave(entries: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Order by worth within each family, then take the families in turn, IPv6 first."""
    ordered = sorted(entries, key=_rank)
    six = [entry for entry in ordered if ":" in entry.host]
    four = [entry for entry in ordered if ":" not in entry.host]
    return [entry for entry in chain.from_iterable(zip_longest(six, four)) if entry is not None]


def _rank(entry: InterfaceAddress) -> int:
    """Global before private before link-local before loopback; the system's order within each."""
    if entry.is_loopback:
        return 3
    if entry.is_link_local:
        return 2
    return 0 if ipaddress.ip_address(entry.host).is_global else 1
