"""What programs say to a port that takes them wherever they want (`-D`): SOCKS 5, SOCKS 4 and 4a, and HTTP CONNECT.

The first byte shows which it is. No I/O: what was read goes in, what is to be written comes out. A client is known to
nobody and may be a web page in a browser of this machine: such a page can have its browser send any HTTP request but
CONNECT, so everything else is refused, and what follows a refusal is never looked at.

Sources: RFC 1928 (SOCKS 5); "SOCKS: A protocol for TCP proxy across firewalls" and its extension 4A; RFC 9110 section
9.3.6 (CONNECT).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import h11

from iceagent.tunnel.spec import canonical_host, parse_port, split_fields

MAX_HEAD = 16 * 1024  # bytes of an HTTP request without its body; browsers send some hundred
MAX_NAME = 255  # bytes; ours for SOCKS 4, whose texts end with a zero byte and have no length
WELCOME = "this port takes programs to other machines by SOCKS or HTTP CONNECT; it is no web server"


class Reply(IntEnum):
    """How a wish was answered. Source: RFC 1928 section 6."""

    GRANTED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NO_NETWORK = 3
    NO_HOST = 4
    REFUSED = 5
    TOO_SLOW = 6
    NO_SUCH_COMMAND = 7
    NO_SUCH_ADDRESS = 8


_STATUS = {Reply.NOT_ALLOWED: 403, Reply.TOO_SLOW: 504, Reply.FAILED: 503}  # of HTTP; 502 for the others
_REASONS = {400: b"Bad Request", 403: b"Forbidden", 405: b"Method Not Allowed", 431: b"Request Header Fields Too Large"}
_REASONS |= {502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a program wants: a connection to a target, or datagrams to any, which it sends from `host` and `port`.

    The host of a connection is in its one form (`canonical_host`); that of datagrams is what the program said, often
    0.0.0.0, its port often 0.
    """

    command: Literal["connect", "udp"]
    host: str
    port: int


class Unacceptable(Exception):
    """The program asks for what there is not."""

    def __init__(self, reason: str, reply: Reply = Reply.FAILED, status: int = 400) -> None:
        super().__init__(reason)
        self.reply = reply
        self.status = status


class ProxyProtocol:
    """One connection of a program, until it is known what the program wants.

    Attributes:
        wanted: that, once it is known; then answer with `answer`.
        rest: what the program sent behind its request: for the target.
        refusal: why nothing comes of it; what `receive` returned last is to be sent, and the connection to be closed.
    """

    def __init__(self) -> None:
        self.wanted: Wanted | None = None
        self.rest = b""
        self.refusal: str | None = None
        self._data = bytearray()
        self._step: Callable[[], bytes | None] | None = self._sniff
        self._refuse: Callable[[Unacceptable], bytes] = lambda _: b""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._kind: Literal["socks5", "socks4", "http"] = "http"

    def receive(self, data: bytes) -> bytes:
        """Take what the program sent, and return what to send to it. Nothing is taken after a refusal.

        Never raises; keeps at most `data` beyond what a request may have.
        """
        if self.refusal is not None:
            return b""
        self._data += data
        answer = b""
        try:
            while self._step is not None and (more := self._step()) is not None:
                answer += more
        except Unacceptable as error:
            self.refusal = str(error)
            self._data.clear()
            self._step = None
            return answer + self._refuse(error)
        if self.wanted is not None:
            self.rest += bytes(self._data)
            self._data.clear()
        return answer

    def answer(self, reply: Reply, *, reason: str = "", host: str = "0.0.0.0", port: int = 0) -> bytes:  # noqa: S104
        """Return the answer to what is wanted; `host`, an IP literal, and `port` are where datagrams may be sent to."""
        if self._kind == "socks5":
            return _socks5_reply(reply, host, port)
        if self._kind == "socks4":
            return _socks4_reply(reply)
        if reply is Reply.GRANTED:
            granted = h11.Response(status_code=200, reason=b"Connection established", headers=[])
            return self._http.send(granted) or b""
        return self._http_refusal(_STATUS.get(reply, 502), reason)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _sniff(self) -> bytes | None:
        if not self._data:
            return None
        first = self._data[0]
        if first == 5:
            self._kind, self._step = "socks5", self._greet
        elif first == 4:
            self._kind, self._step = "socks4", self._read_socks4
            self._refuse = lambda error: _socks4_reply(error.reply)
        elif 0x41 <= first <= 0x5A:
            self._kind, self._step = "http", self._read_http
            self._refuse = lambda error: self._http_refusal(error.status, str(error))
        else:
            raise Unacceptable("a program speaks neither SOCKS nor HTTP")
        return b""

    def _greet(self) -> bytes | None:
        if len(self._data) < 2 or len(self._data) < 2 + self._data[1]:
            return None
        methods = self._take(2 + self._data[1])[2:]
        if 0 not in methods:
            self._refuse = lambda _: b"\x05\xff"
            raise Unacceptable("a program insists on a user name and password, which this port has not")
        self._step = self._read_socks5
        self._refuse = lambda error: _socks5_reply(error.reply)
        return b"\x05\x00"

    def _read_socks5(self) -> bytes | None:
        if len(self._data) < 5:
            return None
        version, command, _, kind, first = self._data[:5]
        if version != 5:
            raise Unacceptable("a program changes its version of SOCKS")
        size = address_size(kind, first)
        if size is None:
            raise Unacceptable(f"address type {kind} is unknown", Reply.NO_SUCH_ADDRESS)
        if len(self._data) < 3 + size:
            return None
        host, port = read_address(self._take(3 + size)[3:])
        if command == 1:
            self._want(host, port)
        elif command == 3:
            self.wanted = Wanted("udp", host, port)
        else:
            raise Unacceptable("a program wants to be connected to (BIND); use -R", Reply.NO_SUCH_COMMAND)
        self._step = None
        return b""

    def _read_socks4(self) -> bytes | None:
        end = self._data.find(0, 8, 8 + MAX_NAME + 1)
        if end < 0:
            if len(self._data) > 8 + MAX_NAME:
                raise Unacceptable("the user of a SOCKS 4 request has no end")
            return None
        command, port, ip = self._data[1], int.from_bytes(self._data[2:4], "big"), bytes(self._data[4:8])
        host, size = str(ipaddress.IPv4Address(ip)), end + 1
        if ip[:3] == b"\0\0\0" and ip[3]:  # 4A: a name follows
            stop = self._data.find(0, size, size + MAX_NAME + 1)
            if stop < 0:
                if len(self._data) > size + MAX_NAME:
                    raise Unacceptable("the host of a SOCKS 4A request has no end")
                return None
            host, size = _text(bytes(self._data[size:stop])), stop + 1
        self._take(size)
        if command != 1:
            raise Unacceptable("a program wants to be connected to (BIND); use -R", Reply.NO_SUCH_COMMAND)
        self._want(host, port)
        self._step = None
        return b""

    def _read_http(self) -> bytes | None:
        if not self._data:
            return None  # for h11 nothing would be the end
        self._http.receive_data(bytes(self._data))
        self._data.clear()
        try:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return None
            if not isinstance(event, h11.Request):
                raise Unacceptable(WELCOME)
            if event.method != b"CONNECT":
                raise Unacceptable(f"{event.method[:20].decode()} is not CONNECT: {WELCOME}", status=405)
            if not isinstance(self._http.next_event(), h11.EndOfMessage):
                raise Unacceptable("a CONNECT with a body")
        except h11.RemoteProtocolError as error:
            raise Unacceptable(str(error), status=error.error_status_hint) from None
        try:
            host, port = split_fields(event.target.decode("ascii"))
            number = parse_port(port)
        except ValueError:
            raise Unacceptable("CONNECT wants HOST:PORT") from None
        self._want(host, number)
        self._data += self._http.trailing_data[0]
        self._step = None
        return b""

    def _want(self, host: str, port: int) -> None:
        try:
            if not port:
                raise ValueError("port 0")
            self.wanted = Wanted("connect", canonical_host(host), port)
        except ValueError as error:
            raise Unacceptable(f"a program asks for what cannot be: {error}") from None

    def _http_refusal(self, status: int, reason: str) -> bytes:
        """Return an answer that no browser takes for a page, and after which the connection ends."""
        body = f"iceagent: {reason}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        if status == 405:
            headers.append(("Allow", "CONNECT"))
        response = h11.Response(status_code=status, reason=_REASONS.get(status, b""), headers=headers)
        try:
            return b"".join(self._http.send(one) or b"" for one in (response, h11.Data(data=body), h11.EndOfMessage()))
        except h11.LocalProtocolError:  # it was answered already
            return b""


def address_size(kind: int, first: int) -> int | None:
    """Return the size of an address with its type and port, bytes; None for a type that there is not.

    `first` is the byte behind the type: of a name its length.

    Source: RFC 1928 section 5.
    """
    size = {1: 4, 3: 1 + first, 4: 16}.get(kind)
    return None if size is None else 1 + size + 2


def read_address(data: bytes) -> tuple[str, int]:
    """Return host and port of a whole address with its type and port; a name that is no text is `Unacceptable`."""
    kind, body, port = data[0], data[1:-2], int.from_bytes(data[-2:], "big")
    if kind == 3:
        return _text(body[1:]), port
    return str(ipaddress.IPv4Address(body) if kind == 1 else ipaddress.IPv6Address(body)), port


def write_address(host: str, port: int) -> bytes:
    """Return the address with its type: of an IP literal or a name, which is ASCII and has at most 253 characters."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return b"\x03" + bytes((len(host),)) + host.encode("ascii") + port.to_bytes(2, "big")
    return (b"\x01" if ip.version == 4 else b"\x04") + ip.packed + port.to_bytes(2, "big")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unacceptable("a host that is no text", Reply.NO_HOST) from None


def _socks5_reply(reply: Reply, host: str = "0.0.0.0", port: int = 0) -> bytes:  # noqa: S104 (nothing is bound)
    return bytes((5, reply, 0)) + write_address(host, port)


def _socks4_reply(reply: Reply) -> bytes:
    return bytes((0, 90 if reply is Reply.GRANTED else 91)) + bytes(6)
