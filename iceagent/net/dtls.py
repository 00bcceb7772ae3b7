"""DTLS as a state machine over pyOpenSSL: datagrams in, messages and datagrams out. RFC 6347.

It owns no socket and waits for nothing, so that whoever has datagrams can put it on top: a client's socket, a server's
socket for many, an ICE pair. OpenSSL's timer runs by the machine's clock, not by Trio's: not for virtual time.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import time
from typing import Final

from OpenSSL import SSL

DTLS1_2_VERSION: Final = 0xFEFD  # RFC 8996 retires the older ones
MAX_MESSAGE: Final = 16384  # bytes of one message: what a record holds, RFC 6347 section 4.1
HANDSHAKE_MTU: Final = 1200  # bytes of UDP payload that a handshake's datagrams have at most: what crosses every path
COOKIE_LIFE_S: Final = 60

_RECORD_HEADER: Final = 13  # bytes: type, version, epoch, sequence number, length
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RANDOM: Final = slice(27, 59)  # of a ClientHello in a record of its own: what tells one handshake from another
_EVERYTHING: Final = 1 << 20


def prepare(context: SSL.Context) -> SSL.Context:
    """Set what every context here has: DTLS 1.2 or later, no renegotiation, our own idea of the MTU."""
    context.set_min_proto_version(DTLS1_2_VERSION)
    context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION)
    return context


class DtlsConnection:
    """One end of one association.

    Whatever was called, `take_datagrams()` holds what has to be sent afterwards. Bytes from the network never raise:
    they are dropped, or end the association.

    Args:
        ssl: over memory, and told which side it is.
    """

    def __init__(self, ssl: SSL.Connection) -> None:
        self._ssl = ssl
        ssl.set_ciphertext_mtu(HANDSHAKE_MTU)
        self.is_open = False
        """Whether the handshake is done."""
        self.ended: str | None = None
        """Why there will be no more messages, in words; None while there may be."""

    @classmethod
    def connect(cls, context: SSL.Context) -> DtlsConnection:
        """Return a client's end; its first flight is ready to be taken."""
        ssl = SSL.Connection(context)
        ssl.set_connect_state()
        connection = cls(ssl)
        connection.advance()
        return connection

    def handle_datagram(self, datagram: bytes) -> list[bytes]:
        """Take a datagram of the other side; return the messages it brought."""
        if self.ended is not None or not datagram:
            return []
        self._ssl.bio_write(datagram)
        return self.advance()

    def advance(self) -> list[bytes]:
        """Do what can be done with what has come; return the messages that were in it."""
        messages: list[bytes] = []
        try:
            if not self.is_open:
                self._ssl.do_handshake()
                self.is_open = True
            while True:
                messages.append(self._ssl.recv(MAX_MESSAGE))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = "the other side closed it"
        except SSL.Error as error:
            self.ended = reason_of(error)
        return messages

    def timeout(self) -> float | None:
        """Return in how many seconds of the machine's clock `handle_timeout` is due; None for never."""
        return None if self.is_open or self.ended is not None else self._ssl.DTLSv1_get_timeout()

    def handle_timeout(self) -> None:
        """Repeat the flight that was not answered, if it is time to."""
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self.ended = reason_of(error)

    def encrypt(self, message: bytes) -> bytes:
        """Return the datagram that carries a message.

        Raises:
            ValueError: it is empty or longer than `MAX_MESSAGE`.
            OSError: the association is not open, or has ended.
        """
        if not self.is_open or self.ended is not None:
            raise OSError(self.ended or "the DTLS handshake is not done")
        if not 0 < len(message) <= MAX_MESSAGE:
            raise ValueError(f"a message over DTLS has 1 to {MAX_MESSAGE} bytes, not {len(message)}")
        try:
            self._ssl.send(message)
            return self._ssl.bio_read(_EVERYTHING)
        except SSL.Error as error:
            self.ended = reason_of(error)
            raise OSError(self.ended) from error

    def take_datagrams(self) -> list[bytes]:
        """Return what has to be sent, in order.

        The memory that OpenSSL writes to forgets where a datagram ends: each gets as many whole records as fit.
        """
        datagrams: list[bytes] = []
        for record in _records(self._written()):
            if datagrams and len(datagrams[-1]) + len(record) <= HANDSHAKE_MTU:
                datagrams[-1] += record
            else:
                datagrams.append(record)
        return datagrams

    def close(self) -> None:
        """Say goodbye, once. RFC 5246 section 7.2.1."""
        if self.ended is None:
            self.ended = "it was closed here"
            if self.is_open:
                with contextlib.suppress(SSL.Error):  # broken already: nobody is left to say it to
                    self._ssl.shutdown()

    def _written(self) -> bytes:
        try:
            return self._ssl.bio_read(_EVERYTHING)
        except SSL.WantReadError:
            return b""


class DtlsDoor:
    """Lets clients in that have shown that they receive what is sent to their address; keeps nothing of the others.

    A ClientHello without a good cookie is answered with one, in fewer bytes than it has. RFC 6347 section 4.2.1.

    Args:
        context: with a certificate; its cookie callbacks are set.
    """

    def __init__(self, context: SSL.Context) -> None:
        self._context = context
        self._key = secrets.token_bytes(32)
        context.set_cookie_generate_callback(lambda ssl: self._cookie(ssl, 0))
        context.set_cookie_verify_callback(self._is_good)

    def admit(self, client_hello: bytes, ends: object) -> tuple[DtlsConnection | None, list[bytes]]:
        """Return a server's end for whoever showed a good cookie, or None; and the datagrams to send.

        The end has done nothing yet: `advance` answers the ClientHello, once it is known that there is a place.

        Args:
            client_hello: a datagram for which `is_client_hello` holds.
            ends: both addresses; its `repr` names them.
        """
        ssl = SSL.Connection(self._context)
        ssl.set_accept_state()
        ssl.set_app_data((ends, handshake_of(client_hello)))
        connection = DtlsConnection(ssl)
        ssl.bio_write(client_hello)
        try:
            ssl.DTLSv1_listen()
        except SSL.Error:  # no cookie, an old one, one of another handshake, or no ClientHello at all
            return None, connection.take_datagrams()
        return connection, []

    def _cookie(self, ssl: SSL.Connection, minutes_ago: int) -> bytes:
        when = int(time.monotonic() / COOKIE_LIFE_S) - minutes_ago
        return hmac.digest(self._key, f"{ssl.get_app_data()!r} {when}".encode(), "sha256")

    def _is_good(self, ssl: SSL.Connection, cookie: bytes) -> bool:
        return any(hmac.compare_digest(cookie, self._cookie(ssl, ago)) for ago in (0, 1))


def is_client_hello(datagram: bytes) -> bool:
    """Return whether a datagram begins with a ClientHello that can be read.

    Of an encrypted record (any epoch but the first) nothing can be said by its bytes.
    """
    return (
        len(datagram) >= _RANDOM.stop
        and datagram[0] == _HANDSHAKE
        and datagram[3:5] == b"\0\0"
        and datagram[_RECORD_HEADER] == _CLIENT_HELLO
    )


def handshake_of(client_hello: bytes) -> bytes:
    """Return what all ClientHellos of one handshake have in common, and no others: the client's random bytes."""
    return client_hello[_RANDOM]


def reason_of(error: SSL.Error) -> str:
    """Return OpenSSL's reason in words."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, list) and queue:
        return str(queue[-1][-1])
    return "DTLS failed"


def _records(data: bytes) -> list[bytes]:
    """Cut what OpenSSL wrote into its records."""
    records: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + _RECORD_HEADER + int.from_bytes(data[at + 11 : at + 13], "big")
        records.append(data[at:end])
        at = end
    return records
