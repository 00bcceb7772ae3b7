"""Sentences of the command line that no other test provokes, with the exit codes that go with them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import icesignal.wire
import pytest
import segno
from in_process import command
from processes import processes

from iceagent.cli import main
from iceagent.cli.codes import BORDER, qr_of
from iceagent.cli.control.folder import NoControl, control_folder, is_supported
from iceagent.cli.control.messages import BadMessage, read_request_untrusted
from iceagent.session.pairing.store import PeerStore
from iceagent.tunnel.allow import parse_allow
from iceagent.tunnel.errors import SpecError

CODE = "7-guitar-ozone"


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    with processes() as started:
        yield started.iceagent("serve", "--json", "--listen", "127.0.0.1:0").wait_for("listening")["url"]


def test_what_nobody_foresaw_is_1_and_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A bug is no reason for a traceback before the eyes of a user."""
    monkeypatch.setenv("ICEAGENT_IDENTITY", str(tmp_path / "identity"))

    def fail(_: PeerStore) -> None:
        raise ZeroDivisionError("of a bug")

    monkeypatch.setattr(PeerStore, "peers", fail)
    assert main(["peers"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "iceagent: internal error: ZeroDivisionError: of a bug (run again with -vv to see where)"


@pytest.mark.processes
def test_a_relay_of_another_version_is_10(
    relay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is there, and to look at the network would be in vain."""
    monkeypatch.setattr(icesignal.wire, "VERSION", 2)
    assert main(["connect", "--relay", relay, CODE]) == 10
    assert "speaks another protocol" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("connect", "--hard-nat", "--relay-only", CODE), "--hard-nat is for direct paths"),
        (("netcheck", "--timeout", "5"), "--timeout is how long --invite waits"),
        (("turn", "--insecure-dev", "--listen", "here"), "--listen 'here' is not IP:PORT"),
        (("turn", "--insecure-dev", "--ports", "1"), "--ports '1' is not FIRST-LAST"),
        (("turn", "--insecure-dev", "--tls-cert", "FILE"), "--tls-cert and --tls-key come together"),
        (("serve", "--listen", "127.0.0.1:0", "--tls-cert", "FILE"), "--tls-cert and --tls-key come together"),
        (("turn", "--secret-file", "FILE"), "FILE holds no secret"),
        (("turn", "--users", "LARGE"), "LARGE is too large"),
        (("turn", "--users", "LATIN"), "LATIN is not UTF-8"),
        (("serve", "--listen", "nowhere"), "--listen 'nowhere' cannot be: HOST or PORT is missing"),
        (("up", "office"), "has no forwards of the name 'office'"),
        (("listen", "--allow", "tcp:a b:22"), "'a b' is not a host"),
        (("forward", "-L", "1:h:2/sctp", CODE), "/sctp is neither /udp nor /tcp"),
        (("forward", "-L", "a:b:1:h:2", CODE), "parts: 5"),
    ],
)
def test_a_slip_is_one_sentence_and_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """With what would be right."""
    files = {"FILE": b"\n", "LARGE": b"", "LATIN": b"caf\xe9:x\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "LARGE").open("wb") as large:
        large.truncate(16 * 1024 * 1024 + 1)
    config = tmp_path / "config.toml"
    config.write_text("")
    config.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iceagent.cli.defaults.config_path", lambda: config)
        patch.setattr("iceagent.cli.up.user_config", lambda: _of(config))
        ended = command(*(str(tmp_path / one) if one in files else one for one in arguments))
    assert ended.returncode == 2
    (line,) = ended.stderr.decode().replace(f"{tmp_path}/", "").splitlines()
    assert says in line


def _of(path: Path) -> tuple[Path, object]:
    from iceagent.cli.user_config import read_user_config

    return path, read_user_config(path)


def test_a_server_of_the_file_is_named_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[[server]]\nurl = "stun:a.example"\n[[server]]\nurl = "http://x"\n')
    path.chmod(0o600)
    ended = command("config", "check", str(path))
    assert ended.returncode == 2
    assert f"{path}: server 2: " in ended.stderr.decode()


@pytest.mark.parametrize(("typed", "meant"), [("tpc:localhost:22", "tcp"), ("upd:h:53", "udp"), ("unx:/a", "unix")])
def test_a_rule_with_a_slip_is_told_with_the_one_like_it(typed: str, meant: str) -> None:
    with pytest.raises(SpecError, match=f"did you mean {meant}"):
        parse_allow(typed)


def test_a_peer_with_a_slip_is_told_with_the_one_like_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PeerStore, "peers", lambda _: {"office": None, "home": None})
    assert main(["connect", "ofice"]) == 4
    assert "did you mean office?" in capsys.readouterr().err
    assert main(["connect", "zzzz"]) == 4
    assert "`iceagent peers` lists them" in capsys.readouterr().err


def test_a_stun_server_needs_no_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    """`--stun host` can mean nothing else."""
    ended = command("netcheck", "--json", "--no-upnp", "--stun", "127.0.0.1:9")
    assert b'"stun:127.0.0.1:9"' in ended.stdout
    assert b"is not an ICE server" in command("netcheck", "--stun", "http://x").stderr


def modules_of(text: str) -> list[list[int]]:
    """Return the modules of a QR code that was drawn with half blocks, 1 for dark."""
    shapes = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows = []
    for line in text.splitlines():
        over, under = zip(*(shapes[one] for one in line), strict=True)
        rows += [list(over), list(under)]
    return rows


@pytest.mark.parametrize("text", ["iceagent connect 7-guitar-ozone@192.0.2.1:41234", "x" * 200])
def test_a_qr_code_is_the_one_of_the_text(text: str) -> None:
    """Module for module, with light all around it."""
    expected = [list(row) for row in segno.make_qr(text, error="l").matrix_iter(border=BORDER)]
    drawn = modules_of(qr_of(text))
    assert drawn[: len(expected)] == expected
    assert all(not any(row) for row in drawn[len(expected) :])


@pytest.mark.processes
def test_qr_stands_under_the_command(relay: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", "--qr", "--allow", "any", "--relay", relay, "--timeout", "0.1"]) == 6
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    pasted = lines[1].partition("run:  ")[2]
    assert "\n".join(lines[2:]).startswith(qr_of(pasted).rstrip("\n"))
    assert shown.out == ""
    assert main(["listen", "--qr", "--json", "--allow", "any", "--relay", relay, "--timeout", "0.1"]) == 6
    assert "█" not in capsys.readouterr().out


def test_qr_without_its_package_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything begins."""
    monkeypatch.setattr("iceagent.cli.codes.find_spec", lambda _: None)
    assert main(["listen", "--qr"]) == 2
    assert "--qr needs the package segno; install it: pip install 'iceagent[qr]'" in capsys.readouterr().err


def test_qr_on_a_terminal_that_cannot_draw_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace", write_through=True)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["pair", "--qr"]) == 2
    assert b"characters of ascii cannot draw it" in err.buffer.getvalue()


@pytest.mark.skipif(not is_supported(), reason="this system has no such sockets")
def test_a_control_folder_that_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "iceagent"
    folder.write_text("")
    with pytest.raises(NoControl, match="is no folder, or a link"):
        control_folder()
    folder.unlink()
    folder.mkdir(mode=0o750)
    folder.chmod(0o750)
    with pytest.raises(NoControl, match="others can get into the folder"):
        control_folder()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(NoControl, match="this user has no home directory"):
        control_folder()


def test_a_request_that_is_none_is_told() -> None:
    with pytest.raises(BadMessage, match="this is no request"):
        read_request_untrusted(b"{")
