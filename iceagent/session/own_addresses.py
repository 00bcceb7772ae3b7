"""Reports restrictions that leave no address of this machine to connect from, before a code is used."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from iceagent.errors import LocalError
from iceagent.net import SystemNetwork
from iceagent.net.api import InterfaceAddress

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig
    from iceagent.agent.filters import Policy


def check_addresses(config: AgentConfig | None, *, peer_may_be_here: bool) -> None:
    """Refuse a configuration whose restrictions leave none of the addresses that this machine has.

    A machine that has no network at all is not concerned: it may get one, and no restriction is to blame. Link-local
    addresses are let pass, since the other side may be on the same link.

    Args:
        config: None for the defaults.
        peer_may_be_here: the two sides meet at loopback, so that its addresses are of use.

    Raises:
        LocalError: it does; the sentence says which addresses are left out by what.
    """
    if config is None:
        return
    _check_remotes(config)
    from iceagent.agent.filters import Policy
    from iceagent.agent.gather.addresses import (
        choose_addresses,  # here: whoever restricts nothing need not wait for them
    )

    try:
        entries = (config.network or SystemNetwork()).interfaces()
    except OSError:
        return  # the agent says it, should it still be so then
    policy = Policy(config)
    chosen = choose_addresses(policy.local_addresses(entries), config)
    if any(_is_of_use(entry, config, peer_may_be_here=peer_may_be_here) for entry in chosen):
        return
    others = [entry for entry in entries if not entry.is_loopback]
    if others:
        raise LocalError(_sentence(config, others, policy))


def _check_remotes(config: AgentConfig) -> None:
    """Refuse prefixes that deny every address that the other side could have, one by one or together.

    Raises:
        LocalError: they do.
    """
    from iceagent.agent.config import parse_prefixes

    denied = parse_prefixes(config.deny_remote_prefixes)
    four = ipaddress.collapse_addresses(one for one in denied if isinstance(one, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(one for one in denied if isinstance(one, ipaddress.IPv6Network))
    is_closed = {4: any(one.prefixlen == 0 for one in four), 6: any(one.prefixlen == 0 for one in six)}
    if not all(is_closed[family] for family in config.families):
        return
    versions = " and ".join(f"IPv{family}" for family in sorted(config.families))
    raise LocalError(
        f"every address of the other side is to be denied (--deny-remote; deny_remote_prefixes), of {versions}: "
        "no path could be used; leave some of them out"
    )


def _is_of_use(entry: InterfaceAddress, config: AgentConfig, *, peer_may_be_here: bool) -> bool:
    is_wanted = config.include_loopback or (config.include_loopback is None and config.interfaces is not None)
    return not entry.is_loopback or peer_may_be_here or bool(is_wanted)


def _sentence(config: AgentConfig, others: Sequence[InterfaceAddress], policy: Policy) -> str:
    """Return what is missing, and what to do."""
    if len(config.families) == 1:
        family = config.families[0]
        if not any((":" in entry.host) == (family == 6) for entry in others):
            return (
                f"only IPv{family} is to be used (-{family}), and this machine has no IPv{family} address; "
                f"leave that out, or give the machine an IPv{family} address"
            )
    left_out = sorted(set(policy.left_out(others)))
    return f"none of this machine's addresses may be used: {', '.join(left_out)} left out; allow one of them"
