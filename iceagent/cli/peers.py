"""`iceagent peers`: the peers that this user has paired with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import click
import trio

from iceagent.cli.completion import complete_peer
from iceagent.cli.options import Common, output_options
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb
from iceagent.session.pairing.identity import Identity
from iceagent.session.pairing.store import PeerStore


@click.group("peers", invoke_without_command=True, epilog="Example:  iceagent peers rename laptop home")
@output_options
@click.pass_context
def command(context: click.Context, as_json: bool, quiet: bool, verbose: int) -> int | None:
    """List the peers this user has paired with; rename or remove one.

    A peer that was removed cannot connect any more; a session that is open stays open.
    """
    context.obj = Common(as_json, quiet, verbose).open_output()
    return None if context.invoked_subcommand is not None else _run(_list, context.obj)


@command.command("rename", epilog="Example:  iceagent peers rename laptop home")
@click.argument("name", shell_complete=complete_peer)
@click.argument("new_name")
@click.pass_obj
def rename(output: Output, name: str, new_name: str) -> int:
    """Call the peer NAME from now on NEW_NAME, here."""

    def change(store: PeerStore, output: Output) -> None:
        store.rename(name, new_name)
        output.line("renamed", f"{name} is called {new_name} now", name=new_name, before=name)

    return _run(change, output)


@command.command("remove", epilog="Example:  iceagent peers remove home")
@click.argument("name", shell_complete=complete_peer)
@click.pass_obj
def remove(output: Output, name: str) -> int:
    """Forget the peer NAME: it cannot connect any more."""

    def change(store: PeerStore, output: Output) -> None:
        store.remove(name)
        output.line("removed", f"{name} is removed, and cannot connect any more", name=name)

    return _run(change, output)


def _list(store: PeerStore, output: Output) -> None:
    own = Identity.load().public.fingerprint
    peers = store.peers()
    output.line("identity", f"this user: {own}" + ("" if peers else "; no peers yet"), fingerprint=own)
    for name, peer in peers.items():
        day = datetime.fromtimestamp(peer.paired_at, UTC).date().isoformat()
        fingerprint = peer.identity.fingerprint
        output.line(
            "peer",
            f"{name}  {fingerprint}  since {day}",
            essential=True,
            name=name,
            fingerprint=fingerprint,
            paired=day,
        )


def _run(body: Callable[[PeerStore, Output], None], output: Output) -> int:
    async def run() -> None:
        await trio.lowlevel.checkpoint()
        body(PeerStore.beside(Identity.load()), output)

    return run_verb(run, output)
