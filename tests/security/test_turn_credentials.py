"""Keys that are encrypted (trap 54), and whom quotas bind (trap 55)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import icesignal
import pytest
from cryptography.hazmat.primitives import serialization
from turn_bench import Bench, Client, config, error_of
from turn_wire import make_certificate, options

from iceagent.cli.exits import Exit
from iceagent.cli.serve import _ice_servers
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import SharedSecretUsers, TurnLimits
from iceagent.servers import TlsFiles, TurnOptions, TurnOptionsError, TurnService, open_turn_server

SECRET = "a secret of some length"


def encrypted(files: TlsFiles, folder: Path) -> TlsFiles:
    """Return the same pair with a key that needs a password."""
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    path = folder / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    return TlsFiles(files.certificate, path)


@pytest.mark.processes
def test_trap_54_an_encrypted_key_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    """On a terminal OpenSSL would ask for the password, and a service would hang for ever."""
    files = encrypted(make_certificate(tmp_path), tmp_path)
    command = [sys.executable, "-m", "iceagent", "turn", "--insecure-dev", "--listen", "127.0.0.1:0"]
    command += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    main, terminal = os.openpty()
    try:
        ended = subprocess.run(  # with a terminal of its own, as OpenSSL asks /dev/tty
            command, stdin=terminal, capture_output=True, text=True, check=False, start_new_session=True
        )
    finally:
        os.close(main)
        os.close(terminal)
    assert ended.returncode == Exit.USAGE
    assert "is encrypted" in ended.stderr
    assert "openssl pkey" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_trap_54_an_encrypted_key_at_a_reload_keeps_the_old_one(tmp_path: Path) -> None:
    """SIGHUP must neither stop the server nor ask anybody; what stood serves on."""
    files = make_certificate(tmp_path)
    good = files.key.read_bytes()
    bad = encrypted(files, tmp_path).key.read_bytes()
    async with open_turn_server(options(tls=files)) as service:
        files.key.write_bytes(bad)
        with pytest.raises(TurnOptionsError, match="is encrypted"):
            service.reload_certificates()
        files.key.write_bytes(good)
        service.reload_certificates()


def credentials(service: TurnService, source: str) -> tuple[str, str]:
    """Return user name and password of a new member."""
    entry = _ice_servers(3478, service, source)[1]
    return entry["username"], entry["credential"]


async def test_trap_55_quotas_bind_a_person_however_often_it_joins() -> None:
    """With a fresh id at each join the quota of 2 was one of 2 for each of any number of joins."""
    turn_options = TurnOptions([TransportAddress("127.0.0.1", 0)], secrets=[SECRET], loopback=True)
    bench = Bench(config(users=SharedSecretUsers([SECRET], lambda: 1000.0), limits=TurnLimits(allocations_per_user=2)))
    async with open_turn_server(turn_options) as service:

        def codes(source: str, joins: int, port: int) -> list[int | None]:
            found = []
            for number in range(joins):
                username, password = credentials(service, source)
                client = Client(bench, TransportAddress("9.9.9.9", port + number), username=username, password=password)
                found.append(error_of(client.allocate()))
            return found

        assert codes("198.51.100.1", 5, 1000) == [None, None, 486, 486, 486]
        assert codes("198.51.100.2", 2, 2000) == [None, None]
        assert codes("2001:db8:0:1::/64", 2, 3000) == [None, None]
        assert codes("2001:db8:0:fe::/64", 1, 4000) == [486]  # the same /56
        assert codes("2001:db8:0:100::/64", 1, 5000) == [None]


async def test_trap_55_the_name_of_a_person_does_not_tell_its_address() -> None:
    """Names travel in the clear, and whoever knows the secret of one server learns nothing from another's."""
    names = {
        SharedSecretUsers([secret], lambda: 0.0).person("198.51.100.1") for secret in (SECRET, "another " + SECRET)
    }
    assert len(names) == 2
    assert not any("198" in name and "100" in name for name in names)


async def test_trap_55_the_relay_says_who_joins() -> None:
    """Two joins from one address, one person."""
    turn_options = TurnOptions([TransportAddress("127.0.0.1", 0)], secrets=[SECRET], loopback=True)
    told: list[str] = []
    async with open_turn_server(turn_options) as service:

        def servers(source: str) -> list[dict[str, object]]:
            told.append(source)
            return _ice_servers(3478, service, source)

        async with icesignal.serve(host="127.0.0.1", port=0, ice_servers=servers) as relay:
            users = set()
            for _ in range(2):
                async with icesignal.open_client(relay.url) as client:
                    await client.allocate()
                    users.add(client.ice_servers[1]["username"].partition(":")[2])
    assert told == ["unknown", *["127.0.0.1"] * 4]  # a sample at the start; then at each welcome and at each join
    assert len(users) == 1
