"""Which proxy a connection goes through: the configured one, or that of the environment variables.

`HTTPS_PROXY`, else `ALL_PROXY` (in upper or lower case) names it, and `NO_PROXY` the hosts that are reached without it.
The connections are opaque to the proxy, such as those to TURN servers and relays, so `HTTP_PROXY` does not apply. This
machine itself is never reached through a proxy of the environment.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from iceagent.core.address import IPAddress
from iceagent.errors import LocalError
from iceagent.net.host_names import check_host

logger = logging.getLogger("iceagent.net")

_DEFAULT_PORTS: Final = {"http": 8080, "https": 443, "socks5": 1080, "socks5h": 1080}
_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_EXCEPTIONS: Final = ("NO_PROXY", "no_proxy")
_MAX_SOCKS_TEXT: Final = 255  # bytes; RFC 1929 section 2
_HOW: Final = "write it as http://[USER:PASSWORD@]HOST:PORT, https://… or socks5://…"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: `http`, `https` (TLS to the proxy itself) or `socks5`; the password is kept out of `repr`."""

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)


def parse_proxy(url: str) -> Proxy:
    """Return the proxy of a URL such as `http://user:pw@proxy.example:8080` or `socks5://[::1]:1080`.

    Raises:
        LocalError: it is no such URL; it is not repeated in the message, for it may hold a password.
    """
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise LocalError(f"the proxy's URL holds a space, a line break or a control character; {_HOW}")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
        host = parts.hostname or ""
        host = check_host(host, bracketed=":" in host) if host else ""
    except ValueError:
        raise LocalError(f"the proxy's URL cannot be read; {_HOW}") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host:
        raise LocalError("the proxy must be http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise LocalError(f"the proxy's URL has something after its port that is never sent to a proxy; {_HOW}")
    if port == 0:
        raise LocalError("the port of the proxy's URL is not within 1 to 65535")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    _check_login(scheme, username, password)
    return Proxy("socks5" if scheme == "socks5h" else scheme, host, port or _DEFAULT_PORTS[scheme], username, password)


def _check_login(scheme: str, username: str, password: str) -> None:
    """Refuse a login the proxy's protocol cannot carry."""
    if not username:
        if password:
            raise LocalError(f"the proxy's URL has a password and no user name; {_HOW}")
        return
    if scheme.startswith("socks5"):
        if not (len(username.encode()) <= _MAX_SOCKS_TEXT and 0 < len(password.encode()) <= _MAX_SOCKS_TEXT):
            raise LocalError("user name and password of a SOCKS5 proxy have 1 to 255 bytes each (RFC 1929)")
    elif ":" in username or any(ord(char) < 32 or ord(char) == 127 for char in username + password):
        raise LocalError("an HTTP proxy's user name has no colon, and neither it nor the password control characters")


def proxy_from_environment(environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that `HTTPS_PROXY` or `ALL_PROXY` (either case) names, or None.

    Raises:
        LocalError: it names none that can be used; the message names the variable.
    """
    for name in _VARIABLES:
        if environment.get(name):
            try:
                return parse_proxy(environment[name])
            except LocalError as error:
                raise LocalError(f"{name}: {error}") from None
    return None


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy the environment wants for a connection, or None: the one rule for TURN and relay alike.

    A variable that names no usable proxy is logged, and none is used.
    """
    if is_exempt(host, port, environment):
        return None
    try:
        return proxy_from_environment(environment)
    except LocalError as error:
        logger.warning("no proxy is used: %s", error)
        return None


def is_exempt(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """Return whether a host is to be reached without a proxy: by `NO_PROXY`, or since it is this machine.

    `NO_PROXY` holds, between commas or spaces, `*` for all; a domain, which stands for the names below it, too, with or
    without a leading `.` or `*.`; an IP address, in brackets or not; a prefix such as `10.0.0.0/8`; and after any of
    these but a prefix `:PORT`. Case and final dots make no difference.
    """
    name = host.lower().removesuffix(".").partition("%")[0]
    ip = _ip(name)
    if name == "localhost" or name.endswith(".localhost") or (ip is not None and (ip.is_loopback or ip.is_unspecified)):
        return True
    text = next((environment[one] for one in _EXCEPTIONS if environment.get(one)), "")
    return any(_covers(entry, name, ip, port) for entry in re.split(r"[,\s]+", text.lower()) if entry)


def _covers(entry: str, name: str, ip: IPAddress | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            prefix = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            return False
        return ip is not None and ip.version == prefix.version and ip in prefix
    found = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?", entry) or re.fullmatch(r"([^:]*)(?::([0-9]{1,5}))?", entry)
    wanted, wanted_port = (entry, None) if found is None else (found[1], found[2])
    if wanted_port is not None and int(wanted_port) != port:
        return False
    wanted_ip = _ip(wanted)
    if wanted_ip is not None or ip is not None:
        return ip is not None and wanted_ip == ip
    domain = wanted.removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _ip(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
