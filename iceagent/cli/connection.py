"""The options that decide how a connection is made: what of this machine is used, and whom it may send to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from icesignal.seconds import Seconds

from iceagent.cli.defaults import user_servers
from iceagent.cli.help import rare

if TYPE_CHECKING:
    from iceagent.agent import AgentConfig, IceServer

GROUP = "Connection"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What the options of `connection_options` say; the defaults leave everything as it is."""

    hard_nat: bool = False
    interface: Sequence[str] = ()
    deny_interface: Sequence[str] = ()
    deny_remote: Sequence[str] = ()
    relay_only: bool = False
    direct: bool = False
    only_ipv4: bool = False
    only_ipv6: bool = False
    give_up_after_s: float | None = None
    servers: Sequence[IceServer] = ()

    def config(self) -> AgentConfig | None:
        """Return a configuration, None for the defaults, with what was asked for.

        Raises:
            LocalError: two options contradict each other, or no interface has such a name.
        """
        if self == ConnectionOptions():
            return None
        from iceagent.agent import AgentConfig
        from iceagent.agent.config import CANDIDATE_TYPES
        from iceagent.errors import LocalError

        if self.hard_nat and self.relay_only:
            raise LocalError("--hard-nat is for direct paths, and --relay-only wants none; leave out one of them")
        if self.direct and self.relay_only:
            raise LocalError("--direct and --relay-only exclude each other; leave out one of them")
        if self.only_ipv4 and self.only_ipv6:
            raise LocalError("-4 and -6 exclude each other; leave out one of them, or both to allow both")
        if self.interface:
            _check_interfaces(self.interface)
        return AgentConfig(
            servers=self.servers,
            hard_nat=self.hard_nat,
            interfaces=self.interface or None,
            deny_interfaces=self.deny_interface,
            deny_remote_prefixes=self.deny_remote,
            transport_policy="relay" if self.relay_only else "all",
            candidate_types=("host", "srflx", "prflx") if self.direct else CANDIDATE_TYPES,
            families=(4,) if self.only_ipv4 else (6,) if self.only_ipv6 else (4, 6),
            outage_s=self.give_up_after_s,
        )


def _check_interfaces(patterns: Sequence[str]) -> None:
    """Refuse a name that nothing here has: mistyped, it would use up a code for a connection that cannot be."""
    from fnmatch import fnmatchcase

    from iceagent.errors import LocalError
    from iceagent.net import SystemNetwork

    names = sorted({entry.name for entry in SystemNetwork().interfaces()})
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LocalError(f"no interface here with an address is called {pattern!r}; there is {', '.join(names)}")


def _prefixes(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> Sequence[str]:
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise click.BadParameter(f"{error}; a right one: 10.0.0.0/8, or fd00::/8") from None
    return texts


_OPTIONS = (
    click.option("-4", "only_ipv4", is_flag=True, help="Connect over IPv4 only."),
    click.option("-6", "only_ipv6", is_flag=True, help="Connect over IPv6 only."),
    click.option(
        "--interface",
        metavar="NAME",
        multiple=True,
        help="Connect over this interface only; patterns such as 'wl*' are allowed. May be given again.",
    ),
    click.option(
        "--deny-interface",
        metavar="NAME",
        multiple=True,
        help="Do not connect over this interface, such as 'docker*'. May be given again.",
    ),
    click.option(
        "--deny-remote",
        metavar="PREFIX",
        multiple=True,
        callback=_prefixes,
        help="Send nothing to these addresses when connecting, such as 10.0.0.0/8. May be given again.",
    ),
    click.option(
        "--direct",
        is_flag=True,
        help="Insist on a direct path: send nothing through a relay; end with 7 where only that is possible.",
    ),
    click.option(
        "--relay-only",
        is_flag=True,
        help="Connect through a TURN server only, and show the other side no address of this machine (docs/turn.md).",
    ),
    click.option(
        "--give-up-after",
        "give_up_after_s",
        type=Seconds(min=0),
        metavar="SECONDS",
        help="How long an open session may be without a path before it ends; 10 minutes, with a paired peer a day.",
    ),
    click.option(
        "--hard-nat",
        is_flag=True,
        help="Send up to 200 small packets a second to get a direct path through NATs that map per destination; "
        "needs it on both sides (docs/hard-nats.md).",
    ),
)


def connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options; the function gets them as one argument, `connection`."""

    @wraps(function)
    def gathered(**arguments: Any) -> Any:
        names = [name for name in ConnectionOptions.__dataclass_fields__ if name != "servers"]
        chosen = {name: arguments.pop(name) for name in names}
        return function(connection=ConnectionOptions(**chosen, servers=user_servers()), **arguments)

    wrapped: Callable[..., Any] = gathered
    return rare(GROUP, *_OPTIONS)(wrapped)
