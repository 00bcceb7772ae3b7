"""The beginning of a tunnel stream: one request, one answer, then the payload.

Each is a frame: its length (2 bytes, big-endian), then a msgpack map. The request says what is wanted:

    {"version": 1, "op": "open", "kind": "tcp", "host": "localhost", "port": 22}
    {"version": 1, "op": "open", "kind": "udp", "host": "192.0.2.1", "port": 53, "flow": 6}
    {"version": 1, "op": "open", "kind": "unix", "path": "/run/app.sock"}
    {"version": 1, "op": "open", "kind": "pipe"}
    {"version": 1, "op": "check", "kind": "any"}    is anything allowed at all? what will be asked for is not known yet
    {"version": 1, "op": "check", ...}      would it be allowed? answered without reaching for the target
    {"version": 1, "op": "listen", "kind": "tcp", "host": "127.0.0.1", "port": 0, "listener": 6}
    {"version": 1, "op": "listen", "kind": "unix", "path": "/tmp/app.sock", "listener": 8}
                        open this over there, for as long as this stream lasts; what connects to it comes back as a
                        stream of the service `back_service(6)`, with the request
    {"version": 1, "op": "open", "kind": "back", "listener": 6, "flow": 4}      of datagrams with their flow
    {"version": 1, "op": "done", "kind": "pipe"}      the sender has read our pipe to its end
    {"version": 1, "op": "done", "kind": "tcp", "flow": 8, ...}      answered once the connection that was opened with
                                                      this flow has ended, and the target has all that was sent

and the answer `{"status": "ok" | "refused" | "failed", "reason": "...", "cause": "...", "binds": [...]}`: refused by
policy, or allowed and out of reach; `binds` are the addresses of a listener. Unknown keys are ignored, so that later
versions may add some.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from iceagent.errors import RemoteError
from iceagent.session.raw import ByteStream
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel.errors import CAUSES, FailedError, RefusedError
from iceagent.tunnel.spec import (
    AnyTarget,
    BackTarget,
    ListenTarget,
    PipeTarget,
    PortBind,
    Target,
    TcpTarget,
    UdpTarget,
    UnixBind,
    UnixTarget,
    canonical_host,
    unix_path,
)

VERSION = 1
MAX_FRAME = 4096  # bytes; the longest request has a path of 107
ANSWER_TIMEOUT_S = 20.0  # for answers that need no connection to a target
MAX_REASON = 300  # characters of the other side's text that may reach a log or a terminal

MAX_BINDS = 16  # addresses of one listener of the other side's that are shown

Operation = Literal["open", "check", "done", "listen"]
Status = Literal["ok", "refused", "failed"]


class WireError(RemoteError):
    """The other side sent something that is no request or no answer."""


class StreamRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the opener of a stream wants."""

    op: Operation
    kind: Literal["tcp", "udp", "unix", "pipe", "any", "back"]
    host: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    path: str = ""
    flow: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    listener: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    version: int = 0

    def target(self) -> Target:
        """Return the target that is wanted.

        Raises:
            WireError: host, port or path cannot be.
        """
        try:
            if self.op == "listen":
                return self._listen_target()
            match self.kind:
                case "pipe":
                    return PipeTarget()
                case "any":
                    return AnyTarget()
                case "back":
                    return BackTarget(self.listener)
                case "unix":
                    return UnixTarget(unix_path(self.path))
                case "tcp" | "udp":
                    kind = TcpTarget if self.kind == "tcp" else UdpTarget
                    return kind(self.host, self._port())
        except ValueError as error:
            raise WireError(f"the other side asks for something that cannot be: {error}") from None

    def _listen_target(self) -> ListenTarget:
        if self.kind == "unix":
            return ListenTarget(UnixBind(unix_path(self.path)))
        if self.kind not in {"tcp", "udp"}:
            raise ValueError(f"a listener of the kind {self.kind}")
        host = canonical_host(self.host) if self.host else ""
        return ListenTarget(PortBind(host, self.port), self.kind == "udp")

    def _port(self) -> int:
        if not self.port:
            raise ValueError("port 0")
        return self.port


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the other side says to a request."""

    status: Status
    reason: str = ""
    cause: str = ""
    binds: tuple[str, ...] = ()

    def raise_unless_ok(self, target: Target) -> None:
        """Turn a bad answer into the exception of its kind.

        Raises:
            RefusedError: the other side's policy forbids the target.
            FailedError: the other side could not reach the target.
        """
        reason = printable(self.reason) or "no reason given"
        if self.status == "refused":
            raise RefusedError(
                f"the other side refuses {target}: {reason}",
                wish="a pipe" if isinstance(target, PipeTarget) else str(target),
            )
        if self.status == "failed":
            if isinstance(target, ListenTarget):
                raise FailedError(f"the other side cannot listen: {reason}")
            cause = self.cause if self.cause in CAUSES else ""
            raise FailedError(f"the other side cannot reach {target}: {reason}", cause=cause)


OK = Answer("ok")
_requests = msgspec.msgpack.Decoder(StreamRequest)
_answers = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()


def back_service(number: int) -> str:
    """Return the service whose streams are the connections of a listener of the other side's."""
    return f"{TUNNEL_SERVICE}.back.{number}"


def service_of(target: Target) -> str:
    """Return the service that has a target."""
    return back_service(target.number) if isinstance(target, BackTarget) else TUNNEL_SERVICE


def request_for(target: Target, *, op: Operation = "open", flow: int = 0, listener: int = 0) -> StreamRequest:
    """Return the request for a target."""
    match target:
        case TcpTarget(host, port):
            return StreamRequest(op, "tcp", host=host, port=port, flow=flow, version=VERSION)
        case UdpTarget(host, port):
            return StreamRequest(op, "udp", host=host, port=port, flow=flow, version=VERSION)
        case UnixTarget(path):
            return StreamRequest(op, "unix", path=path, flow=flow, version=VERSION)
        case AnyTarget():
            return StreamRequest(op, "any", version=VERSION)
        case BackTarget(number):
            return StreamRequest(op, "back", listener=number, flow=flow, version=VERSION)
        case ListenTarget(UnixBind(path)):
            return StreamRequest(op, "unix", path=path, listener=listener, version=VERSION)
        case ListenTarget(bind, udp):
            assert isinstance(bind, PortBind)
            kind: Literal["tcp", "udp"] = "udp" if udp else "tcp"
            return StreamRequest(op, kind, host=bind.host, port=bind.port, listener=listener, version=VERSION)
        case PipeTarget():
            return StreamRequest(op, "pipe", version=VERSION)


async def send_request(stream: ByteStream, request: StreamRequest) -> None:
    """Send a request."""
    await stream.send_all(_frame(request))


async def send_answer(stream: ByteStream, answer: Answer) -> None:
    """Send an answer, its reason cut to what fits."""
    await stream.send_all(_frame(msgspec.structs.replace(answer, reason=answer.reason[:MAX_REASON])))


async def receive_request(stream: ByteStream) -> StreamRequest:
    """Wait for the request.

    Raises:
        WireError: what came is none.
        trio.BrokenResourceError: the stream broke.
    """
    return decode_request_untrusted(await _receive_frame(stream))


async def receive_answer(stream: ByteStream) -> Answer:
    """Wait for the answer.

    Raises:
        WireError: what came is none.
        trio.BrokenResourceError: the stream broke.
    """
    return decode_answer_untrusted(await _receive_frame(stream))


def decode_request_untrusted(data: bytes) -> StreamRequest:
    """Return the request in a frame; raises `WireError` if it is none."""
    try:
        return _requests.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the other side sent no tunnel request: {error}") from None


def decode_answer_untrusted(data: bytes) -> Answer:
    """Return the answer in a frame; raises `WireError` if it is none."""
    try:
        return _answers.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the other side sent no tunnel answer: {error}") from None


def _frame(message: StreamRequest | Answer) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(2, "big") + body


async def _receive_frame(stream: ByteStream) -> bytes:
    size = int.from_bytes(await receive_exactly(stream, 2), "big")
    if size > MAX_FRAME:
        raise WireError(f"the other side sent a frame of {size} bytes where at most {MAX_FRAME} may stand")
    return await receive_exactly(stream, size)


async def receive_exactly(stream: ByteStream, size: int) -> bytes:
    """Return exactly `size` bytes and take no more from the stream.

    Raises:
        WireError: the stream ended before.
    """
    parts = bytearray()
    while len(parts) < size:
        data = await stream.receive_some(size - len(parts))
        if not data:
            raise WireError("the other side ended a tunnel stream in the middle of a frame")
        parts += data
    return bytes(parts)


def printable(text: str) -> str:
    """Return a text of the other side's without anything a terminal would obey, cut to `MAX_REASON`."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_REASON])
