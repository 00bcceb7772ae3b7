"""The options of a TURN server, shared by `turn` and `serve`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from icesignal.seconds import Seconds

from iceagent.cli.help import rare
from iceagent.core.address import TransportAddress, parse_address
from iceagent.core.turn.server import TurnLimits
from iceagent.core.turn.server.limits import FIRST_PORT, LAST_PORT
from iceagent.errors import LocalError
from iceagent.servers.turn_options import DEFAULT_REALM, TlsFiles, TurnOptions

F = TypeVar("F", bound=Callable[..., object])

GROUP = "TURN server"
DEV_USER: str = "dev"
DEFAULT_PORTS = f"{FIRST_PORT}-{LAST_PORT}"
DEFAULT_QUOTAS = {"user": 64, "source": 256, "total": 4096}
MAX_FILE_BYTES = 16 * 1024 * 1024
_FILE = click.Path(dir_okay=False, path_type=Path)


def _quota(of: str, text: str) -> Callable[[F], F]:
    return click.option(
        f"--{of}-quota", type=click.IntRange(1), default=DEFAULT_QUOTAS[of], show_default=True, help=text
    )


_OPTIONS = (
    click.option("--users", type=_FILE, help="A file of users, one NAME:PASSWORD a line."),
    click.option("--secret-file", type=_FILE, help="The secret that short-lived credentials are made with."),
    click.option("--tls-cert", type=_FILE, help="Serve TLS, too, with this certificate chain (PEM)."),
    click.option("--tls-key", type=_FILE, help="The certificate's key (PEM)."),
    click.option("--external-ip", metavar="A", multiple=True, help="Others see this machine as A (one-to-one NAT)."),
    click.option("--insecure-dev", is_flag=True, help="For development: loopback only, a made-up user."),
)
_RARE_OPTIONS = (
    click.option("--realm", default=DEFAULT_REALM, show_default=True, help="The realm of the server's users."),
    click.option("--tls-listen", metavar="HOST:PORT", multiple=True, help="Where TLS and DTLS; else port 5349."),
    click.option("--no-tcp", is_flag=True, help="UDP only."),
    click.option("--relay-ip", metavar="A", multiple=True, help="Relay from A instead of the listening address."),
    click.option("--ports", metavar="FIRST-LAST", default=DEFAULT_PORTS, show_default=True, help="Ports of relays."),
    click.option("--allow-peer", metavar="CIDR", multiple=True, help="Relay to this private or reserved network."),
    click.option("--deny-peer", metavar="CIDR", multiple=True, help="Never relay to this network."),
    click.option("--relay-only", is_flag=True, help="Relay only between relayed addresses of this server."),
    click.option(
        "--user-quota",
        type=click.IntRange(1),
        default=DEFAULT_QUOTAS["user"],
        show_default=True,
        help="Allocations of a user.",
    ),
    click.option(
        "--source-quota",
        type=click.IntRange(1),
        default=DEFAULT_QUOTAS["source"],
        show_default=True,
        help="...of an address.",
    ),
    click.option(
        "--total-quota",
        type=click.IntRange(1),
        default=DEFAULT_QUOTAS["total"],
        show_default=True,
        help="...of all together.",
    ),
    click.option("--max-rate", type=click.IntRange(1), metavar="BYTES/S", help="Relayed for a user, both directions."),
    click.option("--alternate", metavar="HOST:PORT", help="A second address, for NAT behaviour discovery (RFC 5780)."),
    click.option("--drain", type=Seconds(0), default=30.0, show_default=True, help="Seconds after SIGTERM."),
    click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics here."),
)


@dataclass(frozen=True, slots=True)
class TurnArguments:
    """What the options say.

    Attributes:
        options: of the server.
        drain_s: how long allocations may live on after SIGTERM.
        metrics: where to serve them.
        shown: user name and password that were made up and are to be printed.
    """

    options: TurnOptions
    drain_s: float
    metrics: TransportAddress | None
    shown: tuple[str, str] | None


def turn_options(function: F) -> F:
    """Add the options of a TURN server."""
    function = rare(GROUP, *_RARE_OPTIONS)(function)
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def parse_turn(
    listen: Sequence[TransportAddress],
    values: dict[str, Any],
    *,
    tcp_listen: Sequence[TransportAddress] | None = None,
    secret: str | None = None,
) -> TurnArguments:
    """Return what the options of `turn_options` say.

    Args:
        listen: where.
        values: the options, by parameter name.
        tcp_listen: where over TCP, if not there, too.
        secret: used when no file names one.

    Raises:
        LocalError: they contradict each other, or a file cannot be read.
    """
    users = read_users(values["users"]) if values["users"] else {}
    keys = read_secrets(values["secret_file"]) if values["secret_file"] else []
    shown = None
    if not keys and secret is not None:
        keys = [secret]
    if not users and not keys:
        if values["insecure_dev"]:
            shown = (DEV_USER, secrets.token_urlsafe(12))
            users = {shown[0]: shown[1]}
        else:
            raise LocalError("who may use this server? give --users FILE or --secret-file FILE (or --insecure-dev)")
    options = TurnOptions(
        listen=listen,
        realm=values["realm"],
        users=users,
        secrets=keys,
        tcp_listen=() if values["no_tcp"] else tcp_listen,
        tls=_tls(values["tls_cert"], values["tls_key"]),
        tls_listen=tuple(_address("--tls-listen", text) for text in values["tls_listen"]),
        external=values["external_ip"],
        relay_hosts=values["relay_ip"],
        ports=_ports(values["ports"]),
        allow_peers=values["allow_peer"],
        deny_peers=values["deny_peer"],
        relay_only=values["relay_only"],
        loopback=values["insecure_dev"],
        limits=_limits(values),
        alternate=_address("--alternate", values["alternate"]) if values["alternate"] else None,
    )
    metrics = _address("--metrics", values["metrics"]) if values["metrics"] else None
    return TurnArguments(options, values["drain"], metrics, shown)


def _limits(values: dict[str, Any]) -> TurnLimits:
    return TurnLimits(
        allocations=values["total_quota"],
        allocations_per_user=values["user_quota"],
        allocations_per_source=values["source_quota"],
        bytes_per_s=values["max_rate"],
    )


def read_users(path: Path) -> dict[str, str]:
    """Return the users of a file: `NAME:PASSWORD` a line; empty lines and those that begin with `#` are skipped.

    Raises:
        LocalError: the file cannot be read, or a line is not of that form. A half-read list is no list.
    """
    users: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, password = line.strip().partition(":")
        if not (colon and name and password):
            raise LocalError(f"{path}, line {number}: not NAME:PASSWORD")
        if name in users:
            raise LocalError(f"{path}, line {number}: a second password for {name!r}")
        users[name] = password
    if not users:
        raise LocalError(f"{path} names no users")
    return users


def read_secrets(path: Path) -> list[str]:
    """Return the secrets of a file, one a line: the first is used, all are accepted.

    Raises:
        LocalError: the file cannot be read or is empty.
    """
    found = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not found:
        raise LocalError(f"{path} holds no secret")
    return found


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise LocalError(f"{path} is too large")
        return data.decode()
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LocalError(f"{path} is not UTF-8") from None


def _tls(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise LocalError("--tls-cert and --tls-key come together")
    return TlsFiles(certificate, key)


def _ports(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise LocalError(f"--ports {text!r} is not FIRST-LAST, as in 49152-65535")
    return int(first), int(last)


def _address(option: str, text: str) -> TransportAddress:
    try:
        return parse_address(text)
    except ValueError:
        raise LocalError(f"{option} {text!r} is not IP:PORT, as in 192.0.2.1:3478 or [::]:3478") from None
