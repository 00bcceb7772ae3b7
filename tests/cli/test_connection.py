"""The options that decide how a connection is made: what they ask of the agent, and what is refused before it."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace

import pytest
from in_process import command
from processes import Process, Processes

from iceagent.agent import AgentConfig
from iceagent.cli.connection import ConnectionOptions
from iceagent.errors import LocalError
from iceagent.session.relay import agent_config

LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def end(process: Process) -> tuple[int, str]:
    """Wait for the end, and return its exit code and sentence."""
    line = process.wait_for("error")
    assert process.wait(20) == line["exit"]
    return int(line["exit"]), str(line["message"])


def test_without_options_there_is_no_configuration() -> None:
    """None is what sessions take for their defaults."""
    assert ConnectionOptions().config() is None


def test_each_option_is_a_field_of_the_configuration() -> None:
    """Others are as they are by default."""
    options = ConnectionOptions(interface=(LOOPBACK, "l*"), deny_interface=("docker*",), deny_remote=("10.0.0.0/8",))
    assert replace(options, only_ipv4=True).config() == AgentConfig(
        interfaces=(LOOPBACK, "l*"),
        deny_interfaces=("docker*",),
        deny_remote_prefixes=("10.0.0.0/8",),
        families=(4,),
    )
    assert ConnectionOptions(only_ipv6=True).config() == AgentConfig(families=(6,))
    assert ConnectionOptions(hard_nat=True).config() == AgentConfig(hard_nat=True)
    assert ConnectionOptions(relay_only=True).config() == AgentConfig(transport_policy="relay")


def test_relay_only_takes_the_turn_server_that_the_relay_names() -> None:
    """Who has a relay with `--turn` need not name a server again; who has none is told how to get one."""
    config = ConnectionOptions(relay_only=True).config()
    turn = {"urls": ["turn:192.0.2.1:3478"], "username": "u", "credential": "c"}
    assert [server.url for server in agent_config(config, "192.0.2.1", [turn]).ice_servers] == ["turn:192.0.2.1:3478"]
    with pytest.raises(LocalError, match="iceagent serve --turn"):
        agent_config(config, "192.0.2.1", [{"urls": ["stun:192.0.2.1:3478"]}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-4", "-6"), "-4 and -6 exclude each other"),
        (("--relay-only", "--hard-nat"), "leave out one"),
        (("--interface", "nothing"), f"is called 'nothing'; there is .*{LOOPBACK}"),
        (("--deny-interface", "*"), "none of this machine's addresses may be used: .*deny_interfaces"),
        (("--deny-remote", "10.0.0.1/8"), "10.0.0.1/8 has host bits set; a right one: 10.0.0.0/8"),
        (("--deny-remote", "home"), "'home' does not appear to be"),
        (("-4", "--deny-remote", "0.0.0.0/0"), "every address of the other side is to be denied .*, of IPv4:"),
        (
            ("--deny-remote", "::/0", "--deny-remote", "0.0.0.0/1", "--deny-remote", "128.0.0.0/1"),
            "every address of the other side is to be denied .*, of IPv4 and IPv6:",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_code_is_used(options: tuple[str, ...], words: str) -> None:
    """With exit code 2: a code is good for one try, and a typing error must not cost it."""
    done = command("forward", "--json", "-L", "0:localhost:9", *options, "7-guitar-ozone@127.0.0.1:1")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["kind"] == "error"
    assert done.returncode == line["exit"] == 2
    assert re.search(words, line["message"]), line


@pytest.mark.processes
def test_the_path_keeps_to_what_was_asked_for(run: Processes) -> None:
    """Over loopback alone, by IPv4, with every other address of this machine denied."""
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any", "--interface", LOOPBACK, "-4")
    code = str(listener.wait_for("code")["code"])
    options = ("-4", "--interface", LOOPBACK, "--deny-remote", "10.0.0.0/8")
    path = run.iceagent("forward", "--json", "-L", "0:localhost:9", *options, code).wait_for("path")
    assert path["direct"]
    assert str(path["local"]).startswith("127.0.0.1:")


@pytest.mark.processes
def test_relay_only_without_a_turn_server_says_what_to_start(run: Processes) -> None:
    """With exit code 2: the command asks for what this relay cannot give. That costs the other side nothing."""
    relay = run.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any", "--relay", str(relay))
    code = str(listener.wait_for("code")["code"])
    options = ("--relay", str(relay), "--relay-only")
    assert end(run.iceagent("forward", "--json", "-L", "0:localhost:9", *options, code)) == (
        2,
        "only relayed paths are allowed here, and no TURN server is known: let the relay be `iceagent serve --turn`",
    )
    again = run.iceagent("forward", "--json", "-L", "0:localhost:9", "--relay", str(relay), code)
    assert again.wait_for("path")["direct"]


@pytest.mark.processes
def test_relay_only_relays_on_one_machine(run: Processes) -> None:
    """Though the two could see each other, and the listener shows what it has."""
    serving = run.iceagent("serve", "--json", "--turn", "--insecure-dev", "--listen", "127.0.0.1:0")
    relay = str(serving.wait_for("listening")["url"])
    listener = run.iceagent("listen", "--once", "--json", "--allow", "any", "--relay", relay)
    code = str(listener.wait_for("code")["code"])
    path = run.iceagent("forward", "--json", "-L", "0:localhost:9", "--relay", relay, "--relay-only", code).wait_for(
        "path"
    )
    assert not path["direct"]
    assert path["because"] == "the policy here allows nothing else"
