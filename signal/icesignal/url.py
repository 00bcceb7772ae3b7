"""The URL of a relay: each part of it is used or refused; no error message repeats a part of it.

User and password become `Authorization: Basic`, path and query the request's target, a zone stays in this machine, and
the final dot of an absolute name goes to the resolver only.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import idna

from icesignal.expect import expect, expect_list

DEFAULT_PORTS = {"ws": 80, "wss": 443}
MAX_URL_CHARACTERS = 2_048  # ours: user, password, path and query together; a name has 253
MAX_RELAYS = 8  # ours: given at once; each that is silent is one more connection
MAX_NAME_CHARACTERS = 253  # RFC 1035 section 2.3.4, as text, without the final dot
EXAMPLE = "a relay's URL looks like ws://192.0.2.1:8080 or wss://relay.example"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL = re.compile(  # RFC 3986 appendix B
    r"(?P<scheme>[^:]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?\Z"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_ZONE = re.compile(r"[A-Za-z0-9_.:@-]{1,32}\Z")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?P<colon>:(?P<port>.*))?\Z", re.DOTALL)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]|\s")
_IN_TARGET = "/%:@!$&'()*+,;=~-._?"  # RFC 3986 section 3.3 and 3.4; what is escaped already stays as it is


@dataclass(frozen=True, slots=True)
class RelayUrl:
    """A relay's URL, taken apart; `text`, `target` and `authorization` may hold secrets and are kept out of `repr`."""

    text: str = field(repr=False)
    host: str
    port: int
    target: str = field(repr=False)
    is_tls: bool
    authorization: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The host as the other side knows itself: without a zone, without the dot that ends an absolute name."""
        return self.host.partition("%")[0].removesuffix(".")

    @property
    def authority(self) -> str:
        """What the `Host` header says; the port only where it is not the scheme's own (RFC 9110 section 7.2)."""
        host = f"[{self.name}]" if ":" in self.name else self.name
        is_default = self.port == DEFAULT_PORTS["wss" if self.is_tls else "ws"]
        return host if is_default else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL as it may be printed and logged: without user and password, the query cut to `?…`."""
        scheme = "wss" if self.is_tls else "ws"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[scheme] else f":{self.port}"
        _, question, _ = self.target.partition("?")
        return (
            f"{scheme}://{host}{port}" + (self.path if self.path != "/" or question else "") + ("?…" * bool(question))
        )

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.target.partition("?")[0]

    @property
    def in_code(self) -> str:
        """The relay as a code names it, without user, password and query; `HOST:PORT` where that says it all."""
        if self.is_tls or self.path != "/":
            return self.shown.removesuffix("?…")
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_same_place(self, other: RelayUrl) -> bool:
        """Return whether both name the same relay, whoever asks for it: user, password and query do not count."""
        ours, theirs = ((one.is_tls, one.name, one.port, one.path) for one in (self, other))
        return ours == theirs


def parse_relay_url(text: str) -> RelayUrl:
    """Return the parts of `ws://HOST[:PORT]` or `wss://…`; a bare `HOST:PORT` means `ws`.

    Raises:
        ValueError: a part of it cannot be used; the message does not repeat it, for it may hold a password.
    """
    expect(str, url=text)
    text = text.strip()
    if len(text) > MAX_URL_CHARACTERS:
        raise _refused(f"it has more than {MAX_URL_CHARACTERS} characters")
    if _FORBIDDEN.search(text) or any("\ud800" <= character <= "\udfff" for character in text):
        raise _refused("it has spaces, control characters or backslashes in it; write them as %20 and the like")
    parts = _URL.match(text if _SCHEME.match(text) else f"ws://{text}")
    assert parts is not None, "which any text with a scheme does"
    scheme = parts["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        hint = {"http": "; write ws:// for http://", "https": "; write wss:// for https://"}.get(scheme, "")
        raise _refused(f"it begins with neither ws:// nor wss://{hint}")
    if parts["fragment"] is not None:
        raise _refused("it has a fragment, which means nothing to a relay; a # in a password is written %23")
    user, at, place = parts["authority"].rpartition("@")
    host, port = _parse_authority(place, DEFAULT_PORTS[scheme], text)
    target = quote(parts["path"] or "/", safe=_IN_TARGET)
    if parts["query"]:
        target += "?" + quote(parts["query"], safe=_IN_TARGET)
    return RelayUrl(text, host, port, target, scheme == "wss", _basic(user) if at and user else None)


def parse_relay_urls(relays: str | Sequence[str]) -> tuple[RelayUrl, ...]:
    """Return the parts of one URL or several, in their order, each once.

    Raises:
        ValueError: one cannot be used, there is none, or there are more than `MAX_RELAYS`.
    """
    if isinstance(relays, str):
        return (parse_relay_url(relays),)
    expect(str, list, tuple, relays=relays)
    expect_list(relays=relays)
    if not relays:
        raise ValueError("no relay is named")
    if len(relays) > MAX_RELAYS:
        raise ValueError(f"{len(relays)} relays are too many; name {MAX_RELAYS} at most")
    found: dict[str, RelayUrl] = {}
    for number, text in enumerate(relays, 1):
        try:
            parsed = parse_relay_url(text)
        except ValueError as error:
            raise ValueError(f"{error}" if len(relays) == 1 else f"relay {number} of {len(relays)}: {error}") from None
        found.setdefault(parsed.text, parsed)
    return tuple(found.values())


def parse_host(host: str, *, in_brackets: bool = False) -> str:
    """Return a host as resolvers take it: an address in its canonical spelling, or a name in lower-case A-labels.

    Args:
        host: an IPv4 address, a name, or, where `in_brackets`, an IPv6 address, perhaps with a zone (`%eth0`, or
            `%25eth0` as RFC 6874 writes it).
        in_brackets: whether it stood in brackets.
    Raises:
        ValueError: it is none of these; the message repeats nothing of it.
    """
    if in_brackets:
        return _parse_ipv6(host)
    bare = host.removesuffix(".")
    try:
        return str(ipaddress.IPv4Address(bare))
    except ValueError:
        pass
    try:
        name = bare.lower() if bare.isascii() else idna.encode(bare, uts46=True).decode()
    except UnicodeError:
        raise ValueError("its host is no name that DNS can have") from None
    labels = name.split(".")
    if len(name) > MAX_NAME_CHARACTERS or not all(map(_LABEL.match, labels)):
        raise ValueError("its host is neither an address nor a name; IPv6 needs brackets, as in [2001:db8::1]")
    if _NUMBER.match(labels[-1]):
        raise ValueError("its host ends in a number and is no IPv4 address")
    return name + host[len(bare) :]


def _parse_ipv6(host: str) -> str:
    bare, percent, zone = host.partition("%")
    zone = zone.removeprefix("25") if len(zone) > 2 else zone
    try:
        address = str(ipaddress.IPv6Address(bare))
    except ValueError:
        raise ValueError("what is in brackets is no IPv6 address") from None
    if percent and not _ZONE.match(zone):
        raise ValueError("the zone of its address is no interface, as in [fe80::1%25eth0]")
    return f"{address}%{zone}" if percent else address


def _parse_authority(place: str, default_port: int, text: str) -> tuple[str, int]:
    # A password that was not escaped ends the authority early, and would be taken for the port.
    hint = "; in a password / ? # are written %2F %3F %23" if "@" in text.partition("://")[2] else ""
    match = _AUTHORITY.match(place)
    if match is None or (match["literal"] is None and ":" in (match["port"] or "")):
        raise _refused(f"its host cannot be read; IPv6 needs brackets{hint}")
    if not (match["literal"] or match["name"]):
        raise _refused("it names no host")
    try:
        host = parse_host(match["literal"] or match["name"], in_brackets=match["literal"] is not None)
    except ValueError as error:
        raise _refused(f"{error}{hint}") from None
    # RFC 3986 section 3.2.3: an empty port is the default.
    if match["colon"] is None or (not match["port"] and _SCHEME.match(text)):
        return host, default_port
    if not _PORT.match(match["port"]) or not 0 < int(match["port"]) < 65_536:
        raise _refused(f"its port is no number from 1 to 65535{hint}")
    return host, int(match["port"])


def _basic(userinfo: str) -> str:
    """Return the credentials of a URL as RFC 7617 writes them."""
    try:
        name, _, password = (unquote(part, errors="strict") for part in userinfo.partition(":"))
    except UnicodeError:
        raise _refused("its user name or password is not UTF-8") from None
    if ":" in name or any(character < " " or character == "\x7f" for character in name + password):
        raise _refused("its user name has a colon, or user name or password a control character (RFC 7617)")
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode("ascii")


def _refused(why: str) -> ValueError:
    return ValueError(f"this is not the URL of a relay: {why}. Rather {EXAMPLE}")
