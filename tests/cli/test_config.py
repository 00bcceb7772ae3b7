"""`config.toml`: what it may say, what beats it, what is wrong with it, and who may have written it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from iceagent.cli import main
from iceagent.cli.app import app, load_verb
from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.defaults import RELAY_ENVIRONMENT, config_path
from iceagent.cli.help import VerbContext
from iceagent.cli.up import command as up

GOOD = """
relay = ["ws://relay.example:4433"]
stun = ["stun.example.org", "stun:192.0.2.1:3479"]

[connection]
deny_interface = ["docker*"]
ip = 4

[[server]]
url = "turn:turn.example.org"
username = "me"
credential_file = "turn.secret"

[peers.office]
relay = "wss://other.example"
allow = ["tcp:localhost:22"]
give_up_after = 3600
hard_nat = true

[forwards.office]
peer = "office"
local = ["2222:localhost:22", "8080:unix:/run/app.sock"]
"""
SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ICEAGENT_RELAY", "ICEAGENT_CONFIG", "ICEAGENT_CODE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write this user's file."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("ICEAGENT_CONFIG", str(path))

    def write_it(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        secret = tmp_path / "turn.secret"
        secret.write_text(f"{SECRET}\n")
        secret.chmod(0o600)
        return path

    return write_it


def parsed(verb: str, *arguments: str) -> dict[str, Any]:
    """Return the parameters of a verb, as they are when its body would begin, and the relays of the environment."""
    found: click.Command = load_verb(verb)
    with (
        VerbContext(app, info_name="iceagent") as parent,
        found.make_context(verb, list(arguments), parent=parent) as context,
    ):
        return {**context.params, "environment": os.environ.get(RELAY_ENVIRONMENT)}


def test_a_peer_has_its_own_defaults_and_those_of_everybody(write: Callable[[str], Path]) -> None:
    write(GOOD)
    found = parsed("connect", "office")
    assert found["environment"] == "wss://other.example"
    assert (found["hard_nat"], found["give_up_after_s"], found["only_ipv4"]) == (True, 3600, True)
    assert tuple(found["deny_interface"]) == ("docker*",)
    assert RELAY_ENVIRONMENT not in os.environ, "it is as it was when the command has ended"


def test_a_code_has_those_of_everybody(write: Callable[[str], Path]) -> None:
    write(GOOD)
    found = parsed("connect", "7-guitar-ozone")
    assert (found["environment"], found["hard_nat"]) == ("ws://relay.example:4433", False)


def test_the_command_line_beats_the_environment_beats_the_file(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD)
    found = parsed("connect", "--relay", "ws://mine:1", "-6", "--give-up-after", "5", "office")
    assert (found["relay"], found["environment"]) == (("ws://mine:1",), None)
    assert (found["only_ipv4"], found["only_ipv6"], found["give_up_after_s"]) == (False, True, 5)
    assert parsed("connect", "--relay-only", "office")["hard_nat"] is False, "the two exclude each other"
    write("[connection]\nrelay_only = true\n[peers.home]\ndirect = true\nrelay_only = false")
    assert [parsed("connect", "7-a-b")[name] for name in ("direct", "relay_only")] == [False, True]
    assert [parsed("connect", "home")[name] for name in ("direct", "relay_only")] == [True, False]
    assert [parsed("connect", "--direct", "7-a-b")[name] for name in ("direct", "relay_only")] == [True, False]
    write(GOOD)
    monkeypatch.setenv(RELAY_ENVIRONMENT, "ws://theirs:1")
    assert parsed("connect", "office")["environment"] == "ws://theirs:1"


def test_a_comma_in_a_url_stays_one(write: Callable[[str], Path]) -> None:
    write('relay = ["ws://a.example/x,y", "ws://b.example"]')
    assert parsed("pair")["environment"] == "ws://a.example/x%2Cy,ws://b.example"


def test_a_listener_lets_a_peer_reach_what_the_file_says(write: Callable[[str], Path]) -> None:
    """And whoever has a code nothing that was not allowed to him."""
    write(GOOD)
    assert tuple(parsed("listen", "--name", "office")["allow"]) == ("tcp:localhost:22",)
    assert tuple(parsed("listen", "--allow", "any", "--name", "office")["allow"]) == ("any",)
    assert tuple(parsed("listen")["allow"]) == ()


def test_servers_come_with_their_credentials(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(GOOD)
    seen: list[ConnectionOptions] = []
    body = connection_options(lambda connection, **_: seen.append(connection))
    monkeypatch.setattr(load_verb("connect"), "callback", body)
    assert main(["connect", "office"]) == 0
    config = seen[-1].config()
    assert config is not None
    assert [one.url for one in config.servers if not isinstance(one, str)] == [
        "stun:stun.example.org",
        "stun:192.0.2.1:3479",
        "turn:turn.example.org",
    ]
    assert SECRET in [getattr(one, "credential", None) for one in config.servers]


def test_without_a_file_everything_is_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert parsed("connect", "7-guitar-ozone")["environment"] is None
    assert ConnectionOptions() == ConnectionOptions(servers=())


def test_servers_read_nothing_of_it(write: Callable[[str], Path]) -> None:
    """`serve` has a file of its own, and options of the same names mean other things there."""
    write("broken")
    assert parsed("serve")["stun"] == ()


def test_help_needs_no_file_that_can_be_read(write: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    write("broken")
    for arguments in (["connect", "--help"], ["listen", "--help-all"], ["--help"], ["--version"], ["config", "--help"]):
        assert main(arguments) == 0
    assert "broken" not in capsys.readouterr().err


WRONG = [
    ("rely = 1", "line 1: rely is no key of this file; did you mean relay?"),
    ("\n[peers.office]\nalow = []", "line 3: peers.alow is no key of this file; did you mean allow?"),
    ("[forwards.office]\nlocal = []", "line 1: forwards.peer is missing"),
    ("[peers.office]\nhard_nat = 1", "line 2: peers.hard_nat: expected true or false"),
    ("[connection]\nip = 5", "line 2: connection.ip:"),
    ("relay = []", "line 1: relay: expected a list of length >= 1"),
    ('relay = "ftp://x"', "relay:"),
    ('[peers.office]\nrelay = "ws://"', "peers.office.relay:"),
    ('stun = ["stun:"]', "stun:"),
    ('[[server]]\nurl = "turn:x"\nusername = "me"', "server 1:"),
    ('[[server]]\nurl = "turn:x"\nusername = "me"\ncredential_file = "gone"', "gone cannot be read: no such file"),
    ('[connection]\ndeny_remote = ["10.0.0.1/8"]', "host bits"),
    ("[peers.Office]\nhard_nat = true", "no paired peer can have this name"),
    ('[peers.office]\nallow = ["tcp:"]', "peers.office.allow:"),
    ('[forwards.a]\npeer = "7-x"\nlocal = ["1:h:1"]', "can be no paired peer's name"),
    ('[forwards.a]\npeer = "office"', "it opens nothing"),
    ('[forwards.a]\npeer = "office"\nlocal = ["x"]', "is not a forward"),
    ('[forwards.a]\npeer = "office"\nlocal = ["1:h:1", "1:h:2"]', "two forwards want"),
    ("relay = ", "is not TOML"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_what_is_wrong_is_one_sentence_before_anything_is_dialled(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    """The same from the check and from a command that would use it."""
    path = write(text)
    for arguments in (["config", "check"], ["connect", "--relay", "ws://127.0.0.1:9", "7-guitar-ozone"]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
        assert str(path.parent) in line


def test_a_file_that_is_named_and_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ICEAGENT_CONFIG", "/nowhere/config.toml")
    assert main(["connect", "7-guitar-ozone"]) == 2
    assert "/nowhere/config.toml cannot be read: no such file" in capsys.readouterr().err
    monkeypatch.setenv("ICEAGENT_CONFIG", os.devnull)
    assert config_path() is None
    assert main(["config", "check"]) == 2
    assert "there is no file to check" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_trap_114_a_file_that_others_can_write_is_not_obeyed(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    """Whoever writes it says at which relay codes are used, and what a standing listener lets peers reach."""
    write(GOOD).chmod(mode)
    assert main(["config", "check"]) == 2
    assert "chmod go-w" in capsys.readouterr().err
    assert main(["connect", "7-guitar-ozone"]) == 2


def test_trap_114_nor_one_that_is_no_plain_file(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A FIFO would keep every command waiting for its writer."""
    path = write(GOOD)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert main(["config", "check"]) == 2
    assert "is no plain file" in capsys.readouterr().err


def test_trap_114_nor_one_of_another_user(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:  # what belongs to root is root's to write
        os.chown(write(GOOD), 12345, -1)
    assert main(["config", "check"]) == 2
    assert "belongs to another user" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["wss://me:pw@relay.example", "wss://relay.example/x?token=abc"])
def test_trap_115_a_secret_in_it_is_for_its_owner_alone(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], url: str
) -> None:
    """And never shown."""
    path = write(f'[peers.office]\nrelay = "{url}"')
    assert main(["config", "check"]) == 0
    assert main(["config", "show", "office"]) == 0
    shown = capsys.readouterr()
    assert "relay.example" in shown.err
    assert "pw" not in shown.err
    assert "abc" not in shown.err
    path.chmod(0o644)
    assert main(["config", "check"]) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_trap_115_nor_is_a_file_of_a_credential_everybodys(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (write(GOOD).parent / "turn.secret").chmod(0o644)
    assert main(["config", "check"]) == 2
    assert "turn.secret holds a secret" in capsys.readouterr().err


def test_show_says_what_holds_and_where_from(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD)
    monkeypatch.setenv("ICEAGENT_RELAY", "ws://me:pw@theirs.example:1")
    monkeypatch.setenv("ICEAGENT_IDENTITY", "/somewhere/else")
    assert main(["config", "show", "office", "--json"]) == 0
    found = {
        line["name"]: (line["value"], line["source"]) for line in map(json.loads, capsys.readouterr().out.splitlines())
    }
    assert found["relay"] == (["ws://theirs.example:1"], "ICEAGENT_RELAY")
    assert found["identity"] == ("/somewhere/else", "ICEAGENT_IDENTITY")
    assert found["hard_nat"] == (True, "file: peers.office")
    assert found["ip"] == (4, "file: connection")
    assert found["forwards.office"][0] == ["office", "-L 2222:localhost:22", "-L 8080:unix:/run/app.sock"]
    assert SECRET not in str(found)
    assert main(["config", "show"]) == 0
    text = capsys.readouterr().err
    assert "[ICEAGENT_CONFIG]" in text
    assert "me:… of turn.secret" in text


def test_show_without_a_file_says_where_it_would_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["config", "show"]) == 0
    assert f"{tmp_path}/iceagent/config.toml (not there)  [default]" in capsys.readouterr().err


def test_up_is_forward_in_fewer_words(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of `forward` behind it, and with the defaults of the peer."""
    write(GOOD)
    seen: dict[str, Any] = {}
    forward = load_verb("forward")
    monkeypatch.setattr(forward, "callback", lambda **what: (seen.update(what), 0)[1])
    assert main(["up", "office", "--verify", "-L", "1:h:1"]) == 0
    assert seen["specs"] == ("1:h:1", "2222:localhost:22", "8080:unix:/run/app.sock")
    assert (seen["code"], seen["verify"]) == ("office", True)
    assert seen["hard_nat"] is True
    assert up.name == "up"


def test_up_of_what_is_not_there_is_told(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(GOOD)
    assert main(["up", "ofice"]) == 2
    assert "did you mean office?" in capsys.readouterr().err
    assert main(["up", "zzz"]) == 2
    assert "there are: office" in capsys.readouterr().err
    assert main(["up", "office", "--rely", "x"]) == 2
    assert "--rely" in capsys.readouterr().err
    monkeypatch.delenv("ICEAGENT_CONFIG")
    path.unlink()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["up", "office"]) == 2
    assert "docs/config.md" in capsys.readouterr().err
