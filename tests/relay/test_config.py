"""The configuration file of a relay: what it may say, and the one sentence for each thing that it may not."""

from __future__ import annotations

import dataclasses
import datetime
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from coturn import make_certificate
from icesignal.config import ConfigError, RelayConfig, limits_of, read_config
from icesignal.config_checks import certificate_problems, problems_of, secret_file_problems
from icesignal.main import main
from icesignal.rooms import RoomLimits
from icesignal.sources import Limits, Rate


def written(folder: Path, text: str) -> Path:
    path = folder / "relay.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("listn = ':1'", "listn is no key of this file; did you mean listen?"),
        ("listen = 8080", "listen: expected text, got a whole number"),
        ("stun = ''", "stun: expected a list, got text"),
        ("stun = [3]", "stun[0]: expected text, got a whole number"),
        ("[tls]\ncert = 'c'", "tls.key is missing"),
        ("[tls]\ncert = 'c'\nkey = 'k'\nca = 'a'", "tls.ca is no key of this file; there are: cert, key"),
        ("[limits]\nmax_conections = 3", "limits.max_conections is no key of this file; did you mean max_connections?"),
        ("[limits]\njoins = 3", "limits.joins: expected a table, got a whole number"),
        ("[limits]\njoins = { burst = 3 }", "limits.joins.per_s is missing"),
        ("[limits]\njoins = { burst = 9, per_s = -1 }", "limits.joins.per_s: expected a number >= 0.0"),
        ("[limits]\nmax_sources = true", "limits.max_sources: expected a whole number, got true or false"),
        ("[limits]\nmax_sources = 0", "limits.max_sources: expected a whole number >= 1"),
        ("[limits]\nheader_timeout_s = nan", "limits.header_timeout_s: expected a number >= 1.0"),
        ("[limits]\nfailed_join_cost = 101", "limits.failed_join_cost: expected at most limits.joins.burst"),
        ("[limits]\nclaims = { burst = 0.5, per_s = 9 }", "limits.claims.burst: expected a number >= 1.0"),
        ("[limits]\nbytes = { burst = 65535, per_s = 9 }", "limits.bytes.burst: expected a number >= 65536.0"),
        ("[limits]\nheader_timeout_s = 1e-9", "limits.header_timeout_s: expected a number >= 1.0"),
        ("[rooms]\nunjoined_s = 1e-9", "rooms.unjoined_s: expected a number >= 1.0"),
        ("[rooms]\nlog_bytes = 1", "rooms.log_bytes: expected a whole number >= 65536"),
        ("[rooms]\nwindow_bytes = 1", "rooms.window_bytes: expected a whole number >= 65536"),
        ("[rooms]\nentry_bytes = 9999", "rooms.entry_bytes: expected a whole number <= 4096"),
        ("[rooms]\nmembers = 65", "rooms.members: expected a whole number <= 64"),
        ("listen =", "is not TOML: invalid value"),
        ("a = 1\na = 2", "is not TOML: cannot overwrite a value"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_file_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    """A key that is dropped in silence is the opposite of what was asked."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, RelayConfig)
    assert str(caught.value).startswith(f"{path}")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    """Not there, a folder, no text, and far too long."""
    for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=why):
            read_config(path, RelayConfig)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config(binary, RelayConfig)
    with pytest.raises(ConfigError, match="the right file"):
        read_config(Path("/dev/zero"), RelayConfig)


def as_plain(value: Rate | int) -> object:
    return dataclasses.asdict(value) if isinstance(value, Rate) else value


@pytest.mark.parametrize("kind", [Limits, RoomLimits])
def test_every_limit_can_be_set_and_others_stay(tmp_path: Path, kind: type[Limits] | type[RoomLimits]) -> None:
    """Numbers live in the configuration: an operator must not have to patch them."""
    where = "limits" if kind is Limits else "rooms"
    for field in dataclasses.fields(kind):
        usual = field.default
        value: Rate | int
        value, shown = (Rate(7, 3), "{ burst = 7, per_s = 3 }") if isinstance(usual, Rate) else (2, "2")
        if field.name == "bytes":
            value, shown = Rate(70_000, 3), "{ burst = 70000, per_s = 3 }"
        elif "log_bytes" in field.name or field.name == "window_bytes":
            value, shown = 70_000, "70000"
        if field.name == "joins":
            value, shown = Rate(8, 3), "{ burst = 8, per_s = 3 }"
        config = read_config(written(tmp_path, f"[{where}]\n{field.name} = {shown}"), RelayConfig)
        found = limits_of(config, Limits) if kind is Limits else limits_of(config, RoomLimits)
        assert dataclasses.asdict(found) == dataclasses.asdict(kind()) | {field.name: as_plain(value)}


def test_paths_begin_in_the_folder_of_the_file(tmp_path: Path) -> None:
    """A service has another working directory than whoever tries the file."""
    config = read_config(written(tmp_path, "[tls]\ncert = 'c.pem'\nkey = '/k.pem'"), RelayConfig)
    assert config.tls is not None
    assert (config.tls.cert, config.tls.key) == (str(tmp_path / "c.pem"), "/k.pem")


def test_values_are_in_no_repr(tmp_path: Path) -> None:
    """URLs may hold passwords, and a `repr()` ends up in a log."""
    assert "secret" not in repr(read_config(written(tmp_path, "stun = ['stun:secret']"), RelayConfig))


def test_certificates_and_keys_are_looked_at(tmp_path: Path) -> None:
    """Of another pair, encrypted, open to everybody, run out, not begun: each told, with what to do."""
    (tmp_path / "other").mkdir()
    certificate, key = make_certificate(tmp_path, "localhost")
    _, other_key = make_certificate(tmp_path / "other", "localhost")
    key.chmod(0o640)

    def problems(key_path: Path, days: float = 0.0) -> list[str]:
        path = written(tmp_path, f"[tls]\ncert = '{certificate}'\nkey = '{key_path}'")
        now = datetime.datetime.now(datetime.UTC).timestamp() + days * 86_400
        return list(problems_of(path, read_config(path, RelayConfig), lambda: now))

    assert problems(key) == []
    assert problems(other_key) == [f"{other_key} is not the key of the certificate in {certificate}"]
    assert "cannot be read: no such file" in problems(tmp_path / "none")[0]
    assert "has expired" in problems(key, days=30)[0]
    assert "is the clock right?" in problems(key, days=-30)[0]
    key.chmod(0o644)
    assert problems(key) == [f"{key} holds a secret, and every user of this machine may open it; chmod 640 {key}"]
    key.write_text("nonsense")
    assert "not a PEM certificate and its key" in problems(key)[0]


def test_a_certificate_of_another_form_and_a_file_that_waits_are_told(tmp_path: Path) -> None:
    """OpenSSL takes TRUSTED CERTIFICATE; a FIFO would have check-config wait for ever."""
    certificate, key = make_certificate(tmp_path, "localhost")
    key.chmod(0o640)
    trusted = tmp_path / "trusted.pem"
    subprocess.run(["openssl", "x509", "-in", certificate, "-trustout", "-out", trusted], check=True, timeout=60)
    assert "does not begin with a PEM certificate" in "".join(certificate_problems(str(trusted), str(key)))
    os.mkfifo(tmp_path / "fifo")
    assert list(secret_file_problems(str(tmp_path / "fifo"))) == [f"{tmp_path / 'fifo'} is no file"]
    (tmp_path / "empty").touch()
    assert "None" not in "".join(certificate_problems(str(tmp_path / "empty"), str(key)))


def test_check_config_says_all_and_exits_2(tmp_path: Path) -> None:
    """Whoever corrects a file wants to know everything that is wrong with it."""
    path = written(tmp_path, "listen = 'nonsense'\nallow_origins = ['page']\ntrusted_proxies = ['ten']\nstun = ['x']\n")
    done = CliRunner().invoke(main, ["check-config", str(path)])
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert len(lines) == 4
    for key in ("listen", "allow_origins", "trusted_proxies", "stun"):
        assert sum(f"{path}: {key}: " in line for line in lines) == 1
    good = written(tmp_path, "listen = ':8080'\n")
    done = CliRunner().invoke(main, ["check-config", str(good)])
    assert (done.exit_code, done.output) == (0, f"{good} is good\n")


def test_a_relay_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    """The same sentence as from check-config, and the same code."""
    done = CliRunner().invoke(main, ["--config", str(written(tmp_path, "listn = ':1'"))])
    assert done.exit_code == 2
    assert "did you mean listen?" in done.output
