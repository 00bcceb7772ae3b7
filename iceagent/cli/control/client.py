"""The side of whoever asks: finds the running commands of this user, and asks them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from iceagent.cli.control import folder as places
from iceagent.cli.control.messages import (
    CONTROL_VERSION,
    MAX_ANSWER,
    Answer,
    BadMessage,
    CommandStatus,
    Request,
    read_answer_untrusted,
    read_status_untrusted,
    to_line,
)
from iceagent.errors import IceError, LocalError

PATIENCE_S: Final = 5.0  # ours: a command that answers later hangs, or its machine is very busy


class Unanswered(NamedTuple):
    """A command that is there, and says nothing that can be read; `why` in words."""

    pid: int
    why: str


async def ask(path: Path, request: str, arguments: Mapping[str, Any] | None = None, *, wait_s: float) -> Answer:
    """Ask a command, and return its answer.

    Raises:
        ConnectionRefusedError, FileNotFoundError: it is no more.
        OSError: the socket cannot be used.
        BadMessage: what is there is no command of ours and of this user's, or it does not answer in time.
    """
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock, trio.move_on_after(wait_s):
        await sock.connect(str(path))
        if not places.is_own_peer(sock):
            raise BadMessage("the process that listens there is another user's")
        stream = trio.SocketStream(sock)
        try:
            await stream.send_all(to_line(Request(CONTROL_VERSION, request, dict(arguments or {}))))
            return read_answer_untrusted(await _receive_line(stream))
        except trio.BrokenResourceError:
            raise BadMessage("it closed the connection; it is ending") from None
    raise BadMessage(f"it has not answered for {wait_s:g} s")


async def _receive_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        part = await stream.receive_some()
        received += part
        if not part or len(received) > MAX_ANSWER:
            raise BadMessage("its answer has no end")
    return bytes(received)


async def ask_all(pid: int | None = None) -> list[CommandStatus | Unanswered]:
    """Return what the running commands of this user do, by process id; what dead ones have left is removed.

    Args:
        pid: of the one that is meant; None for all.
    Raises:
        LocalError: there are no control sockets here, or none of this process id.
    """
    folder = _existing_folder()
    wanted = [] if folder is None else [one for one in places.commands(folder) if pid in (None, one[0])]
    found: dict[int, CommandStatus | Unanswered] = {}
    async with trio.open_nursery() as nursery:
        for number, path in wanted:
            nursery.start_soon(_ask_one, number, path, found)
    if pid is not None and not found:
        raise LocalError(f"no command of iceagent with a session has the process id {pid}; `iceagent status` lists all")
    return [found[number] for number in sorted(found)]


def _existing_folder() -> Path | None:
    try:
        folder = places.control_folder(create=False)
    except OSError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise LocalError(f"the running commands cannot be asked: {error}") from error
    places.sweep(folder)
    return folder


async def _ask_one(pid: int, path: Path, found: dict[int, CommandStatus | Unanswered]) -> None:
    try:
        found[pid] = read_status_untrusted(await ask(path, "status", wait_s=PATIENCE_S))
    except (ConnectionRefusedError, FileNotFoundError):
        places.remove_dead(path)
    except (BadMessage, OSError, IceError) as error:
        found[pid] = Unanswered(pid, str(error))
