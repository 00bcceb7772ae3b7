"""The policy of one agent: what of this machine may be used, and whom it may send to. Compiled from `AgentConfig`.

What is refused is counted by reason, for `explain()`. Addresses of peers are checked in three places: where
they are signalled, where their packets arrive, and where our packets leave.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from iceagent.agent.config import AgentConfig, parse_prefixes
from iceagent.agent.gather.servers import IceServer
from iceagent.core import ice
from iceagent.core.address import IPAddress, TransportAddress, inner_addresses, without_zone
from iceagent.core.discovery.nat64 import extract
from iceagent.core.ice import CandidateType
from iceagent.net.api import InterfaceAddress
from iceagent.net.tasks import contained

_MAX_CACHED: Final = 1024  # ours: verdicts on remote addresses; strangers may fill it, so it is emptied then
_MAX_SIGNALLED: Final = 1024  # ours: addresses the peer has signalled, those of earlier generations included

Prefixes = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


class Policy:
    """Answers what is allowed. Without restrictions each answer costs one attribute.

    Args:
        config: whose fields are checked already.

    Attributes:
        refused: how often something was left out, by reason.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._types = frozenset(CandidateType(kind) for kind in config.candidate_types)
        self._local = None if config.prefixes is None else parse_prefixes(config.prefixes)
        self._deny_local = parse_prefixes(config.deny_prefixes)
        self._remote = None if config.remote_prefixes is None else parse_prefixes(config.remote_prefixes)
        self._deny_remote = parse_prefixes(config.deny_remote_prefixes)
        self._nat64: ipaddress.IPv6Network | None = None
        self._verdicts: dict[TransportAddress, str] = {}
        self._signalled: dict[TransportAddress, None] = {}
        self._left_out: dict[str, str] = {}
        self._refused_relays: dict[TransportAddress, None] = {}
        self._only_signalled = CandidateType.PRFLX not in self._types
        self._limits_remotes = bool(self._deny_remote) or self._remote is not None or config.remote_filter is not None
        self._refuses_relays = CandidateType.RELAY not in self._types
        self._denied_families = _whole_families(self._deny_remote)
        self.limits_sending = self._limits_remotes or self._only_signalled or self._refuses_relays
        """Whether `permits` may ever say no."""
        self.limits_interfaces = (
            config.interfaces is not None
            or bool(config.deny_interfaces or config.deny_prefixes)
            or config.prefixes is not None
        )
        """Whether what the system's routes choose may be forbidden."""
        self.refused: Counter[str] = Counter()
        self.signalled_families: set[int] = set()
        """IP versions of all candidates the peer has signalled, refused or not."""
        self.own_hosts: Callable[[], Collection[str]] = tuple
        """Returns the addresses of this machine, as they are now."""

    # This machine

    def local_addresses(self, entries: Iterable[InterfaceAddress]) -> list[InterfaceAddress]:
        """Return the addresses of this machine that may be used; those left out are remembered with the reason."""
        allowed = []
        for entry in entries:
            reason = self._refusal(entry)
            if not reason:
                allowed.append(entry)
            elif len(self._left_out) < _MAX_CACHED:
                self._left_out[entry.host] = reason
        return allowed

    def left_out(self, entries: Iterable[InterfaceAddress]) -> list[str]:
        """Return what each of the addresses that may not be used is, and what forbids it: `eth0 (interfaces)`."""
        return [reason for entry in entries if (reason := self._refusal(entry))]

    def _refusal(self, entry: InterfaceAddress) -> str:
        config, ip = self._config, ipaddress.ip_address(entry.host)
        if ip.version not in config.families:
            return f"IPv{ip.version} (families)"
        if config.interfaces is not None and not _matches(entry.name, config.interfaces):
            return f"{entry.name} (interfaces)"
        if _matches(entry.name, config.deny_interfaces):
            return f"{entry.name} (deny_interfaces)"
        if self._local is not None and not _within(ip, self._local):
            return f"{entry.name} (prefixes)"
        return f"{entry.name} (deny_prefixes)" if _within(ip, self._deny_local) else ""

    def has_type(self, kind: CandidateType) -> bool:
        """Return whether candidates of a type are wanted."""
        return kind in self._types

    # Servers and gateways

    def permits_server(self, address: TransportAddress, server: IceServer | None = None) -> bool:
        """Return whether a server or gateway may be sent to: unless its address is denied.

        A server that somebody else names is never in this machine or on its link, whatever its name resolves to.

        Args:
            address: one of its addresses, or of those it names in its place.
            server: whose it is, if it is a server's.
        """
        if self._is_denied(address.ip):
            self.refused["server (deny_remote_prefixes)"] += 1
            return False
        if server is None or server.may_be_here:
            return True
        own = self.own_hosts()
        if all(server.may_be_at(face, own) for face in self._faces(address.ip)):
            return True
        self.refused["server named by a relay (it is in this machine, on its cable, or no host)"] += 1
        return False

    # The peer

    def accepts(self, candidate: ice.Candidate) -> bool:
        """Return whether a candidate of the peer may be used; if not, count it. Its address is an IP literal."""
        self.signalled_families.add(candidate.address.family)
        if candidate.type not in self._types:
            self.refused[f"remote {candidate.type.value} candidate (candidate_types)"] += 1
            if candidate.type is CandidateType.RELAY and len(self._refused_relays) < _MAX_SIGNALLED:
                # Nor as the peer-reflexive candidate that a check from there would reveal.
                self._refused_relays[without_zone(candidate.address)] = None
            return False
        reason = self._reason(candidate.address)
        if reason:
            self.refused[f"remote candidate ({reason})"] += 1
            return False
        if self._only_signalled and len(self._signalled) < _MAX_SIGNALLED:
            self._signalled[without_zone(candidate.address)] = None
        return True

    def permits(self, remote: TransportAddress) -> bool:
        """Return whether packets of the peer may come from there, and ours go there."""
        if not self.limits_sending:
            return True
        if self._only_signalled and without_zone(remote) not in self._signalled:
            return False
        if self._refused_relays and without_zone(remote) in self._refused_relays:
            return False
        return not self._reason(remote)

    def refuses_unknown(self, family: int) -> bool:
        """Return whether no address of an IP version may ever be used but those that were accepted."""
        return self._only_signalled or family in self._denied_families or self._remote == ()

    def drop(self, what: str) -> None:
        """Count what was dropped because `permits` said no."""
        self.refused[what] += 1

    def _reason(self, address: TransportAddress) -> str:
        """Return the name of the field that forbids an address of the peer, or ""."""
        if not self._limits_remotes:
            return ""
        known = self._verdicts.get(address)
        if known is None:
            if len(self._verdicts) >= _MAX_CACHED:
                self._verdicts.clear()
            known = self._verdicts[address] = self._judge(address)
        return known

    def _judge(self, address: TransportAddress) -> str:
        ip = address.ip
        if self._is_denied(ip):
            return "deny_remote_prefixes"
        if self._remote is not None and not _within(ip, self._remote):
            # Its inner address counts where a standard says so, not under a prefix that some resolver reported.
            inner = inner_addresses(ip)
            if not inner or not all(_within(face, self._remote) for face in inner):
                return "remote_prefixes"
        wanted = self._config.remote_filter
        if wanted is None:
            return ""
        with contained("remote_filter"):  # the user's: one that fails has not said yes
            return "" if wanted(address) else "remote_filter"
        return "remote_filter"

    def _is_denied(self, ip: IPAddress) -> bool:
        """Return whether an address is denied, or an IPv4 one it may stand for: `64:ff9b::10.0.0.1` is 10.0.0.1."""
        return any(_within(face, self._deny_remote) for face in self._faces(ip))

    def _faces(self, ip: IPAddress) -> list[IPAddress]:
        """Return an address, and the IPv4 ones it may stand for."""
        faces: list[IPAddress] = [ip, *inner_addresses(ip)]
        if isinstance(ip, ipaddress.IPv6Address) and self._nat64 is not None and _within(ip, (self._nat64,)):
            faces.append(extract(self._nat64, ip))
        return faces

    def note_nat64(self, prefix: ipaddress.IPv6Network) -> None:
        """Take note of the prefix under which this network translates to IPv4, as its resolver reports it."""
        self._nat64 = prefix
        self._verdicts.clear()

    # Explaining

    def facts(self) -> list[str]:
        """Return in words what has been left out, for `explain()`."""
        reasons = Counter(self._left_out.values())
        facts = [f"policy: {count} local address(es) left out: {reason}" for reason, count in sorted(reasons.items())]
        return facts + [f"policy: {count} times {what}" for what, count in sorted(self.refused.items())]

    @property
    def has_refused_relays(self) -> bool:
        """Whether any relayed candidate of the peer was refused for being one."""
        return bool(self._refused_relays)

    @property
    def has_refused_candidates(self) -> bool:
        """Whether any candidate of the peer was refused."""
        return any(what.startswith("remote") for what in self.refused)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _whole_families(prefixes: Prefixes) -> frozenset[int]:
    """Return the IP versions of which prefixes leave no address out."""
    v4 = ipaddress.collapse_addresses(one for one in prefixes if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in prefixes if isinstance(one, ipaddress.IPv6Network))
    whole = {4: any(one.prefixlen == 0 for one in v4), 6: any(one.prefixlen == 0 for one in v6)}
    return frozenset(family for family, is_whole in whole.items() if is_whole)


def _within(ip: IPAddress, prefixes: Prefixes) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        ip = ipaddress.IPv6Address(int(ip))
    return any(ip.version == prefix.version and ip in prefix for prefix in prefixes)
