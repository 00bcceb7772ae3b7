"""`iceagent forwards`: forwards of a running command, added and removed while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from iceagent.cli.control.messages import Answer, CommandStatus
from iceagent.cli.exits import Exit
from iceagent.cli.options import Common, output_options
from iceagent.cli.run import run_verb
from iceagent.errors import IceError, LocalError

WAIT_S = 60.0  # the other side is asked whether it allows a target, over a path that may be slow
_ADD = """
Example:  iceagent forwards add -L 5432:localhost:5432
"""
_REMOVE = """
Example:  iceagent forwards remove 127.0.0.1:5432
"""


@click.group("forwards", epilog=_ADD)
def command() -> None:
    """Add and remove forwards of an `iceagent forward` that runs.

    `iceagent status` lists them.
    """


@command.command("add", epilog=_ADD)
@click.option("-L", "local", metavar="[BIND:]PORT:HOST:PORT", multiple=True, help="As of `iceagent forward`.")
@click.option("-R", "remote", metavar="[BIND:]PORT:HOST:PORT", multiple=True, help="As of `iceagent forward`.")
@click.option("-D", "dynamic", metavar="[BIND:]PORT", multiple=True, help="As of `iceagent forward`.")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@output_options
def add(
    local: Sequence[str],
    remote: Sequence[str],
    dynamic: Sequence[str],
    pid: int | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Open further forwards; PID is the process, where several run."""
    output = Common(as_json, quiet, verbose).open_output()
    given = (("local", local), ("remote", remote), ("dynamic", dynamic))
    wanted = [(direction, spec) for direction, specs in given for spec in specs]

    async def run() -> None:
        if not wanted:
            raise LocalError("nothing is to be added; say what with -L, -R or -D")
        for direction, spec in wanted:
            found = await _ask(pid, "forward.add", {"spec": spec, "direction": direction})
            binds, target = [str(one) for one in found.get("binds", [])], str(found.get("target", ""))
            text = f"forwarding {' and '.join(binds)} to {target}"
            bind = str(found.get("bind", ""))
            output.line("forwarding", text, bind=bind, binds=binds, target=target, direction=direction)

    return run_verb(run, output)


@command.command("remove", epilog=_REMOVE)
@click.argument("bind")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@output_options
def remove(bind: str, pid: int | None, as_json: bool, quiet: bool, verbose: int) -> int:
    """Close the forward at BIND, its local address or port; connections it carries are broken off."""
    output = Common(as_json, quiet, verbose).open_output()

    async def run() -> None:
        found = await _ask(pid, "forward.remove", {"bind": bind})
        shown = str(found.get("bind", bind))
        output.line("forward-removed", f"{shown} is forwarded no longer", bind=shown)

    return run_verb(run, output)


async def _ask(pid: int | None, request: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command that is meant has answered.

    Raises:
        LocalError: none is, or several are, or it has refused.
    """
    from iceagent.cli.control import client, folder
    from iceagent.cli.control.messages import BadMessage

    found = [one for one in await client.ask_all(pid) if isinstance(one, CommandStatus)]
    able = [one for one in found if request in one.requests]
    if len(able) != 1:
        raise LocalError(_choice([one.pid for one in able]))
    path = folder.socket_path(folder.control_folder(create=False), able[0].pid)
    try:
        answer = await client.ask(path, request, arguments, wait_s=WAIT_S)
    except (BadMessage, OSError) as error:
        raise LocalError(f"process {able[0].pid} cannot be asked: {error}") from error
    if not answer.ok or not isinstance(answer.value, dict):
        raise _refusal(answer)
    return answer.value


def _refusal(answer: Answer) -> IceError:
    """Return an error with the exit code that the command would have had."""
    from iceagent.link.errors import PeerRefused
    from iceagent.tunnel.errors import LocalIOError

    kinds: dict[int, type[IceError]] = {Exit.REFUSED: PeerRefused, Exit.LOCAL_IO: LocalIOError}
    return kinds.get(answer.exit, LocalError)(answer.error or "it has answered what cannot be read")


def _choice(pids: Sequence[int]) -> str:
    if not pids:
        return "no `iceagent forward` is connected that could take it; start one"
    return f"several run: name the process, one of {', '.join(map(str, pids))}"
