"""What is imported when: every command pays for its imports before it does anything. By module, not by the clock."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest
import trio

from iceagent.cli.app import VERBS, load_verb
from iceagent.cli.output import Output
from iceagent.cli.run import run_verb

HEAVY = {"trio", "asyncio", "ssl", "cryptography", "OpenSSL", "qh3", "dns", "h11", "wsproto", "spake2", "msgspec"}
HEAVY |= {"rich", "rich_click"}
FACADES = ["iceagent", "icesignal", "iceagent.agent", "iceagent.agent.explain", "iceagent.agent.late"]
FACADES += ["iceagent.core.discovery", "iceagent.core.hard_nat", "iceagent.core.ice", "iceagent.core.portmap"]
FACADES += ["iceagent.core.stun", "iceagent.core.turn"]
SELDOM: tuple[str, ...] = ("iceagent.core.turn.", "iceagent.net.turn.", "iceagent.net.portmap")
SELDOM += ("iceagent.core.ice.streams",)
SELDOM += ("iceagent.core.discovery.", "iceagent.core.hard_nat.", "iceagent.core.portmap.")
SELDOM += ("iceagent.agent.hard_nat.", "iceagent.agent.report.export", "iceagent.agent.report.statistics")
SELDOM += ("iceagent.agent.explain.judge", "iceagent.core.stun.server", "iceagent.net.nat_discovery")
"""What a link over a direct path does without; of `core.discovery` and `net.turn` it has what tells addresses apart."""
NEEDED = {"iceagent.core.discovery.nat64", "iceagent.net.turn.redirect"}
WAIT = """
import trio, iceagent
from iceagent.session.errors import NobodyCame
async def wait():
    async with iceagent.invite() as invitation, invitation.accept(timeout_s=0.001):
        pass
try: trio.run(wait)
except NobodyCame: pass
"""
LINK = """
import trio, icesignal, iceagent
async def answer(invitation):
    async with invitation.accept() as link, link.serve_forwards(["any"]):
        await link.wait_closed()
async def connect():
    async with icesignal.serve(host="127.0.0.1") as server:
        relay = f"ws://127.0.0.1:{server.port}"
        async with iceagent.invite(relay=relay) as invitation, trio.open_nursery() as nursery:
            nursery.start_soon(answer, invitation)
            async with iceagent.join(invitation.code, relay=relay) as link, link.forward_local("0:127.0.0.1:1"):
                pass
trio.run(connect)
"""
DIAL = """
import sys, trio, iceagent
async def join(port):
    async with iceagent.join("7-guitar-ozone", relay=f"ws://127.0.0.1:{port}"):
        pass
async def dial():
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(join, silent.socket.getsockname()[1])
        while "qh3.quic.connection" not in sys.modules:  # if it never is, `join` ends this as it gives up
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
trio.run(dial)
"""


def loaded_by(code: str) -> set[str]:
    """Return the modules that are there after some code in a fresh interpreter."""
    code += "\nimport json, sys\nsys.stdout = sys.__stdout__\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["forwar"]])
def test_the_list_of_verbs_imports_no_verb(arguments: list[str]) -> None:
    """Help is asked for by people, who wait for it, and by completion, at every key."""
    loaded = loaded_by(f"from iceagent.cli import main\nassert main({arguments!r}) in (0, 2)")
    assert loaded & HEAVY == set()
    ours = {name for name in loaded if name.startswith(("iceagent.", "icesignal"))}
    assert ours <= {
        "iceagent.cli",
        "iceagent.cli.app",
        "iceagent.cli.exits",
        "iceagent.cli.help",
        "iceagent.cli.output",
    }


@pytest.mark.processes
@pytest.mark.parametrize("facade", ["iceagent", "icesignal"])
def test_a_facade_costs_nothing(facade: str) -> None:
    assert loaded_by(f"import {facade}") & HEAVY == set()


@pytest.mark.processes
@pytest.mark.parametrize("facade", FACADES)
def test_a_facade_hands_out_every_name(facade: str) -> None:
    """Names come with their first use; one that is listed and cannot be had would be found by a user."""
    loaded_by(
        f"import {facade}\nassert set({facade}.__all__) <= set(dir({facade}))\n"
        f"for name in {facade}.__all__: getattr({facade}, name)\n"
        f"try: {facade}.no_such_name\nexcept AttributeError: pass\nelse: raise SystemExit('found')"
    )


@pytest.mark.processes
def test_who_joins_imports_nothing_of_servers() -> None:
    """The relay, the TURN server, multicast DNS and DTLS are for those who meet them."""
    loaded = loaded_by("import iceagent.cli.forward")
    servers = ("iceagent.servers", "iceagent.core.turn.server", "icesignal.server")
    assert [name for name in loaded if name.startswith(servers)] == []
    assert loaded & {"iceagent.net.mdns", "iceagent.net.turn.dtls", "iceagent.vnet"} == set()
    assert (
        loaded
        & {"asyncio", "OpenSSL", "dns", "qh3", "cryptography.x509", "aioquic", "prometheus_client", "structlog", "rich"}
        == set()
    )


@pytest.mark.processes
def test_a_link_over_a_direct_path_imports_nothing_of_the_other_ways() -> None:
    """Each module costs some milliseconds before the first byte, and dataclasses cost the most."""
    loaded = loaded_by(LINK) - NEEDED
    assert "iceagent.link.quic_qh3" in loaded, "no link came about, so this shows nothing"
    seldom = (*SELDOM, "cryptography.x509")
    assert sorted(name for name in loaded if name.startswith(seldom)) == []
    assert "asyncio" not in loaded


@pytest.mark.processes
@pytest.mark.parametrize("code", [WAIT, DIAL], ids=["the inviter", "the joiner"])
def test_the_quic_library_is_there_before_the_other_side_is(code: str) -> None:
    """Its import would otherwise stand between the path that was found and the first byte, on both sides."""
    assert "qh3" in loaded_by(code)


def test_garbage_is_collected_again_once_a_verb_runs() -> None:
    """Start-up does without; a relay that runs for a month must not."""
    gc.disable()
    try:
        run_verb(trio.lowlevel.checkpoint, Output())
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_says_what_each_verb_says_of_itself(verb: str) -> None:
    """Its lines are repeated there, and must not grow old."""
    assert load_verb(verb).get_short_help_str(limit=500) == VERBS[verb]
