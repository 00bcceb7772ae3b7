"""What the listening side lets its peer reach: `--allow`, a list of rules. An empty list allows nothing.

    PORT            PORT/udp         tcp:localhost:PORT, udp:localhost:PORT
    tcp:HOST:PORT   udp:HOST:PORT    exactly this, as in tcp:localhost:22 or udp:[2001:db8::1]:53
    tcp:HOST:*      udp:*:53         any port of a host, a port of any host
    unix:PATH                        exactly this path
    any                              everything this machine can reach

A rule is compared with what the peer asks for before any name is resolved: `localhost` and `127.0.0.1` are two things,
and a name cannot slip through a rule written with an address, whatever it resolves to. Both are in one form by then
(`iceagent.tunnel.spec`): names in lower case, addresses by value; and what was compared is what is connected to.

And what it lets its peer open here: `--allow-remote-listen`, the same as `--allow listen:…`.

    listen:8080            127.0.0.1, ::1 or localhost, port 8080: only this machine reaches it
    listen:53/udp          the same for UDP
    listen:0, listen:*     a port that the system chooses; any port
    listen:HOST:8080       exactly this address, as in listen:192.0.2.1:8080 or listen:[2001:db8::1]:8080
    listen:*:8080          every address of this machine, also all of them at once
    listen:unix:PATH       exactly this path
    listen:any             whatever this user may open

No other rule allows any of it, `any` neither: to open a port is not to reach one. As with those rules, hosts are
compared in their one form, before a name is resolved, and what was compared is what is bound.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from iceagent.net.host_names import resolve
from iceagent.tunnel.errors import SpecError
from iceagent.tunnel.spec import (
    ListenTarget,
    PortBind,
    Target,
    TcpTarget,
    UdpTarget,
    UnixBind,
    UnixTarget,
    canonical_host,
    join_host_port,
    parse_port,
    same_host,
    split_fields,
    unix_path,
)

_KINDS = ("tcp", "udp", "unix", "any", "listen")
EXAMPLE = "tcp:localhost:22 (or udp:192.0.2.1:53, tcp:localhost:*, unix:/run/app.sock, any; listen:8080 for -R)"


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One thing, or a family of things, that the peer may reach.

    `kind` is "tcp", "udp", "unix" or "any". `host` None is any host, `port` None is any port.
    """

    kind: str
    host: str | None = None
    port: int | None = None
    path: str = ""

    def __post_init__(self) -> None:
        if self.host is not None:
            object.__setattr__(self, "host", canonical_host(self.host))

    def matches(self, target: Target) -> bool:
        """Return whether the rule covers the target; it must be an address: a pipe, say, is never covered."""
        match target:
            case TcpTarget(host, port) | UdpTarget(host, port):
                kind = "tcp" if isinstance(target, TcpTarget) else "udp"
                return self.kind == "any" or (self.kind == kind and self._matches_address(host, port))
            case UnixTarget(path):
                return self.kind == "any" or (self.kind == "unix" and self.path == path)
            case _:
                return False

    def _matches_address(self, host: str, port: int) -> bool:
        return (self.host is None or same_host(self.host, host)) and self.port in {None, port}

    def __str__(self) -> str:
        if self.kind == "any":
            return "any"
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = "*" if self.host is None else self.host
        return f"{self.kind}:{join_host_port(host, '*' if self.port is None else self.port)}"


@dataclass(frozen=True, slots=True)
class ListenRule(AllowRule):
    """What the peer may have opened here.

    `what` is "tcp", "udp", "unix" or "any"; `host` None is any host, and with `loopback` only this machine's own;
    `port` None is any port, and 0 one that the system chooses.
    """

    what: str = "any"
    loopback: bool = False

    def matches(self, target: Target) -> bool:
        """Return whether the rule covers the target: a listener, nothing else."""
        if not isinstance(target, ListenTarget):
            return False
        match target.bind:
            case PortBind(host, port):
                same_kind = self.what == ("udp" if target.udp else "tcp")
                return self.what == "any" or (
                    same_kind and self._matches_host(host) and (self.port is None or self.port == port)
                )
            case UnixBind(path):
                return self.what == "any" or (self.what == "unix" and self.path == path)

    def _matches_host(self, host: str) -> bool:
        if self.loopback:
            return _is_loopback(host)
        return self.host is None or (host != "" and same_host(self.host, host))

    def __str__(self) -> str:
        if self.what == "any":
            return "listen:any"
        if self.what == "unix":
            return f"listen:unix:{self.path}"
        port = "*" if self.port is None else str(self.port)
        suffix = "/udp" if self.what == "udp" else ""
        return f"listen:{port if self.loopback else join_host_port(self.host or '*', port)}{suffix}"


def _is_loopback(host: str) -> bool:
    """Return whether a host in its one form is this machine itself, for nobody else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # RFC 6761 section 6.3


def parse_allow(text: str) -> AllowRule:
    """Return the rule written as `PORT`, `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH` or `any`.

    Raises:
        SpecError: the text is none of these; the message has an example of a right one.
    """
    try:
        return _parse(text)
    except ValueError as error:
        raise SpecError(f"{text!r} is not an --allow rule: {error}. A right one: {EXAMPLE}") from None


def _parse(text: str) -> AllowRule:
    if text == "any":
        return AllowRule("any")
    port, _, protocol = text.partition("/")
    if port.isdigit() and text in {port, f"{port}/tcp", f"{port}/udp"}:
        return AllowRule(protocol or "tcp", host="localhost", port=parse_port(port))
    kind, colon, rest = text.partition(":")
    if kind == "listen" and colon:
        return _parse_listen_rule(rest)
    if kind == "unix" and colon:
        return AllowRule("unix", path=unix_path(rest))
    if kind not in {"tcp", "udp"} or not colon:
        near = get_close_matches(kind, _KINDS, n=1)
        raise ValueError("it begins with none of tcp:, udp:, unix:" + (f"; did you mean {near[0]}?" if near else ""))
    fields = split_fields(rest)
    if len(fields) != 2:
        raise ValueError(f"after {kind}: there must be HOST:PORT")
    host, port = fields
    return AllowRule(
        kind,
        host=None if host == "*" else canonical_host(host),
        port=None if port == "*" else parse_port(port),
    )


def _parse_listen_rule(text: str) -> ListenRule:
    """Return the rule written as `[BIND:]PORT[/udp]`, `unix:PATH` or `any`.

    Raises:
        ValueError: the text is none of these.
    """
    if text == "any":
        return ListenRule("listen")
    if text.startswith("unix:"):
        return ListenRule("listen", path=unix_path(text.removeprefix("unix:")), what="unix")
    plain, slash, protocol = text.partition("/")
    if slash and protocol not in {"udp", "tcp"}:
        raise ValueError(f"/{protocol} is neither /udp nor /tcp")
    *hosts, port = split_fields(plain)
    if len(hosts) > 1:
        raise ValueError("after listen: there must be PORT or BIND:PORT")
    host = hosts[0] if hosts else None
    return ListenRule(
        "listen",
        host=None if host is None or host in {"", "*"} else canonical_host(host),
        port=None if port == "*" else parse_port(port, zero=True),
        what=protocol or "tcp",
        loopback=host is None,
    )


def reach_rules(rules: Iterable[AllowRule]) -> tuple[AllowRule, ...]:
    """Return the rules about what may be reached."""
    return tuple(rule for rule in rules if not isinstance(rule, ListenRule))


def parse_rules(rules: Iterable[str | AllowRule]) -> tuple[AllowRule, ...]:
    """Return rules given as text or as values.

    Raises:
        SpecError: one of the texts is not a rule.
    """
    return tuple(parse_allow(rule) if isinstance(rule, str) else rule for rule in rules)


def is_allowed(rules: Sequence[AllowRule], target: Target) -> bool:
    """Return whether any rule covers the target."""
    return any(rule.matches(target) for rule in rules)


async def doubt_about(rule: AllowRule) -> str | None:
    """Return why nobody can reach what a rule names, in a few words; None where nothing is known against it."""
    if rule.kind == "unix":
        return _doubt_about_path(rule.path)
    if rule.host is None or rule.kind == "listen":
        return None
    try:
        await resolve(rule.host, rule.port or 0)
    except socket.gaierror:
        return "the name does not resolve"
    except OSError:
        return None
    return None


def _doubt_about_path(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "there is no such socket"
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else str(error)
    if not stat.S_ISSOCK(mode):
        return "it is not a socket"
    return None if os.access(path, os.R_OK | os.W_OK) else "permission denied"
