"""Forwards as a user writes them: ssh's grammar, with `/udp`, `unix:PATH` and brackets around IPv6 addresses.

    PORT:PORT[/udp]                  2222:22, which is 2222:localhost:22
    [BIND:]PORT:HOST:PORT[/udp]      2222:localhost:22, [::1]:2222:[fe80::1]:22, 5353:192.0.2.1:53/udp
    [BIND:]PORT:unix:PATH            8080:unix:/run/app.sock
    unix:PATH:HOST:PORT              unix:/tmp/db.sock:localhost:5432
    unix:PATH:unix:PATH              unix:/tmp/a.sock:unix:/tmp/b.sock

Without BIND only this machine reaches the port (127.0.0.1); an empty BIND or `*` means every interface, as with ssh.

Hosts have one canonical form. A resolver reads more spellings of an address than a rule does: `10.0.0.1.`, `10.1`,
`0x0a000001`, `::ffff:10.0.0.1` and full-width digits all lead to 10.0.0.1. If only one side of a comparison, or only
the connection, reads them so, a rule can be bypassed. So each host is converted once, where it comes in, and only that
form is used from then on. An address is never resolved as a name, and a name never becomes an address by its spelling.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from iceagent.core.printable import printable
from iceagent.net.sockaddr import zone_index
from iceagent.tunnel.errors import SpecError

_HOST = re.compile(r"[^\s/\[\]\x00-\x20\x7f\ud800-\udfff]{1,253}")  # surrogates: bytes that are no UTF-8
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of a name is never so (RFC 3696 section 2)
_MAX_ZONE = 31  # characters; an interface's name has at most 15 on Linux


def canonical_host(text: str) -> str:
    """Return a host in its one form: an address as `ipaddress` writes it, or a name in lower case and ASCII.

    An IPv4-mapped address is the IPv4 one; the zone of an IPv6 address stays. Idempotent.

    Raises:
        ValueError: it is neither, or could be read as two.
    """
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host" if text else "a host is missing")
    if ":" in text:
        return _ipv6(text)
    name = _ascii(text).lower().removesuffix(".")
    if not _HOST.fullmatch(name) or "%" in name or ":" in name or name.endswith("."):
        raise ValueError(f"{text!r} is not a host")
    return _address(name, text) if _NUMERIC.fullmatch(name.rpartition(".")[2]) else name


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None
    zone = address.scope_id or ""
    if not zone.isprintable() or len(zone) > _MAX_ZONE:
        raise ValueError(f"{zone[:_MAX_ZONE]!r} is not the zone of an IPv6 address, as in fe80::1%eth0")
    return str(address if address.ipv4_mapped is None else address.ipv4_mapped)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    import idna

    try:
        return idna.encode(text, uts46=True).decode("ascii")  # as trio asks the resolver
    except (idna.IDNAError, UnicodeError):
        raise ValueError(f"{text!r} is not a host") from None


def _address(name: str, text: str) -> str:
    """Return the IPv4 address that the system's resolver reads in a host of numbers, which may be fewer than four."""
    values = []
    for part in name.split("."):
        if len(part) > 1 and part[0] == "0" and not part.startswith("0x"):
            raise ValueError(f"{text!r} could be decimal or octal; write the address without leading zeros")
        if not _NUMERIC.fullmatch(part) or part == "0x" or len(part) > 10:
            raise ValueError(f"{text!r} is neither an address nor a name")
        values.append(int(part, 16 if part.startswith("0x") else 10))
    *leading, last = values
    if len(values) > 4 or any(value > 255 for value in leading) or last >= 256 ** (4 - len(leading)):
        raise ValueError(f"{text!r} is neither an address nor a name")
    high = sum(value << (24 - 8 * at) for at, value in enumerate(leading))
    return str(ipaddress.IPv4Address(high + last))


def same_host(one: str, other: str) -> bool:
    """Return whether two hosts in their form are the same here: a zone may be an interface's name or its number."""
    return one == other or ("%" in one and "%" in other and _numbered(one) == _numbered(other))


def _numbered(host: str) -> tuple[str, int | str]:
    bare, _, zone = host.partition("%")
    try:
        return bare, zone_index(zone)
    except OSError:
        return bare, zone


DEFAULT_BIND = "127.0.0.1"  # loopback unless the user says otherwise: a forward is not a public service
EXAMPLE = "2222:localhost:22 (or [::1]:2222:[fe80::1]:22, 5353:192.0.2.1:53/udp, unix:/tmp/a.sock:unix:/tmp/b.sock)"

_FIELD = re.compile(r"\[[^\[\]]*\]|[^:\[\]]*")
_MAX_UNIX_PATH = 107  # sun_path of Linux, less its final zero


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A TCP service as the far side sees it; `host` is brought into its one form (`canonical_host`)."""

    host: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", canonical_host(self.host))

    def __str__(self) -> str:
        return f"tcp:{join_host_port(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class UdpTarget:
    """A UDP service as the far side sees it; `host` as for TCP."""

    host: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", canonical_host(self.host))

    def __str__(self) -> str:
        return f"udp:{join_host_port(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A Unix stream socket of the far side; `str()` is for people, its path made printable: it may be a peer's wish."""

    path: str

    def __str__(self) -> str:
        return f"unix:{printable(self.path)}"


@dataclass(frozen=True, slots=True)
class PipeTarget:
    """The standard input and output of the command on the far side."""

    def __str__(self) -> str:
        return "pipe"


@dataclass(frozen=True, slots=True)
class AnyTarget:
    """Whatever the programs at a local socket ask for (`-D`), within what the far side allows."""

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class PortBind:
    """A local port. `host` is an IP literal or a name; empty for every interface; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host or "*", self.port)


@dataclass(frozen=True, slots=True)
class UnixBind:
    """A local Unix stream socket, made when the forward opens and removed when it closes."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Bind = PortBind | UnixBind


@dataclass(frozen=True, slots=True)
class BackTarget:
    """What a listener that the other side asked for leads to, over there: nobody here knows what that is (`-R`).

    Attributes:
        number: which of the other side's listeners it is.
        bind: where it listens, for people.
        udp: whether it takes datagrams.
    """

    number: int
    bind: str = ""
    udp: bool = False

    def __str__(self) -> str:
        return f"its end of {self.bind}"


@dataclass(frozen=True, slots=True)
class ListenTarget:
    """No target, but a socket that the far side is to open, and whose connections come back (`-R`)."""

    bind: Bind
    udp: bool = False

    def __str__(self) -> str:
        return f"listen:{printable(str(self.bind))}{'/udp' if self.udp else ''}"


Target = TcpTarget | UdpTarget | UnixTarget | PipeTarget | AnyTarget | BackTarget | ListenTarget


@dataclass(frozen=True, slots=True)
class ForwardSpec:
    """From a local socket to a target on the far side."""

    bind: Bind
    target: TcpTarget | UdpTarget | UnixTarget | AnyTarget | BackTarget


def parse_forward(text: str) -> ForwardSpec:
    """Return the forward written as `[BIND:]PORT:HOST:PORT[/udp]`, with `unix:PATH` on either side.

    Raises:
        SpecError: the text is not of that form; the message has an example of a right one.
    """
    try:
        return _parse(text)
    except ValueError as error:
        raise SpecError(f"{text!r} is not a forward: {error}. A right one: {EXAMPLE}") from None


def parse_dynamic(text: str) -> ForwardSpec:
    """Return the forward of whatever is asked for, written as `[BIND:]PORT` or `unix:PATH`.

    Raises:
        SpecError: the text is not of that form; the message has an example of a right one.
    """
    try:
        return ForwardSpec(parse_bind(text), AnyTarget())
    except ValueError as error:
        raise SpecError(f"{text!r} is not a place for -D: {error}. A right one: 1080, or [::1]:1080") from None


def parse_bind(text: str) -> Bind:
    """Return the local socket written as `[BIND:]PORT` or `unix:PATH`.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("unix:"):
        return UnixBind(unix_path(text.removeprefix("unix:")))
    return _port_bind(split_fields(text))


def check_distinct(specs: Iterable[ForwardSpec], where: str = "here") -> None:
    """Refuse forwards that want the same socket, all of them on this side or, `where` says so, on the other.

    Raises:
        SpecError: two of them do; the message names both.
    """
    seen: list[ForwardSpec] = []
    for spec in specs:
        for other in seen:
            if _collide(spec, other):
                raise SpecError(
                    f"two forwards want {spec.bind} {where}, one to {other.target} and one to {spec.target}; "
                    "give one of them another port or path"
                )
        seen.append(spec)


def _collide(one: ForwardSpec, other: ForwardSpec) -> bool:
    match one.bind, other.bind:
        case PortBind(host, port), PortBind(other_host, other_port):
            same_protocol = is_udp(one.target) is is_udp(other.target)
            hosts, other_hosts = _bind_hosts(host), _bind_hosts(other_host)
            same_host = not host or not other_host or not hosts.isdisjoint(other_hosts)
            return same_protocol and port == other_port != 0 and same_host
        case UnixBind(path), UnixBind(other_path):
            return os.path.realpath(path) == os.path.realpath(other_path)
        case _:
            return False


def is_udp(target: Target) -> bool:
    """Return whether a target takes datagrams."""
    return isinstance(target, UdpTarget) or (isinstance(target, BackTarget | ListenTarget) and target.udp)


def _bind_hosts(host: str) -> set[str]:
    """Return what a host stands for, without asking DNS: `localhost` is both loopbacks (RFC 6761 section 6.3)."""
    return {host, "127.0.0.1", "::1"} if host.lower().removesuffix(".") == "localhost" else {host}


def _parse(text: str) -> ForwardSpec:
    if text.startswith("unix:"):
        return _parse_from_unix(text.removeprefix("unix:"))
    left, is_unix, path = text.partition(":unix:")
    if is_unix:
        return ForwardSpec(_port_bind(split_fields(left)), UnixTarget(unix_path(path)))
    plain, udp = _strip_protocol(text)
    fields = split_fields(plain)
    if len(fields) == 2 and all(map(str.isdigit, fields)):
        fields.insert(1, "localhost")
    if len(fields) not in {3, 4}:
        raise ValueError(f"parts: {len(fields)}, not three (PORT:HOST:PORT) or four (BIND:PORT:HOST:PORT)")
    return ForwardSpec(_port_bind(fields[:-2]), _target(fields[-2], fields[-1], udp=udp))


def _parse_from_unix(rest: str) -> ForwardSpec:
    near, is_unix, far = rest.partition(":unix:")
    if is_unix:
        return ForwardSpec(UnixBind(unix_path(near)), UnixTarget(unix_path(far)))
    plain, udp = _strip_protocol(rest) if ":" in rest else (rest, False)
    if udp:
        raise ValueError("a Unix stream socket cannot carry UDP")
    match = re.fullmatch(r"(?P<path>.+):(?P<host>\[[^\[\]]*\]|[^:\[\]]+):(?P<port>[^:\[\]]*)", plain)
    if match is None:
        raise ValueError("after unix:PATH there must be HOST:PORT or unix:PATH")
    return ForwardSpec(UnixBind(unix_path(match["path"])), _target(_unbracket(match["host"]), match["port"], udp=False))


def _strip_protocol(text: str) -> tuple[str, bool]:
    head, slash, protocol = text.rpartition("/")
    if not slash or ":" in protocol:
        return text, False
    if protocol not in {"udp", "tcp"}:
        raise ValueError(f"/{protocol} is neither /udp nor /tcp")
    return head, protocol == "udp"


def _port_bind(fields: list[str]) -> PortBind:
    match fields:
        case [port]:
            return PortBind(DEFAULT_BIND, parse_port(port, zero=True))
        case ["" | "*", port]:
            return PortBind("", parse_port(port, zero=True))
        case [host, port]:
            return PortBind(canonical_host(host), parse_port(port, zero=True))
        case _:
            raise ValueError("the local side must be PORT or BIND:PORT")


def _target(host: str, port: str, *, udp: bool) -> TcpTarget | UdpTarget:
    kind = UdpTarget if udp else TcpTarget
    return kind(host, parse_port(port))


def split_fields(text: str) -> list[str]:
    """Return what stands between the colons of `text`; a bracketed field counts as one and loses its brackets."""
    fields: list[str] = []
    at = 0
    while True:
        match = _FIELD.match(text, at)
        end = match.end() if match else at
        fields.append(_unbracket(text[at:end]))
        if end == len(text):
            return fields
        if text[end] != ":":
            raise ValueError(f"{text[end]!r} is in the wrong place; an IPv6 address stands in brackets, as in [::1]")
        at = end + 1


def _unbracket(field: str) -> str:
    if not field.startswith("["):
        return field
    inner = field[1:-1]
    try:
        ipaddress.IPv6Address(inner)
    except ValueError:
        raise ValueError(f"[{inner}] is not an IPv6 address") from None
    return inner


def parse_port(text: str, *, zero: bool = False) -> int:
    """Return a port number, 1 to 65535, or 0 where the system may choose.

    Raises:
        ValueError: it is not one.
    """
    lowest = 0 if zero else 1
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port number, {lowest} to 65535" if text else "a port is missing")
    return int(text)


def unix_path(text: str) -> str:
    """Return a path that a Unix socket may have.

    Raises:
        ValueError: it is empty, has a zero byte, or is longer than the system allows.
    """
    if not text or "\0" in text:
        raise ValueError("the path of a Unix socket is missing")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("the path of a Unix socket must be UTF-8") from None
    if size > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a Unix socket has at most {_MAX_UNIX_PATH} bytes")
    return text


def join_host_port(host: str, port: int | str) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
