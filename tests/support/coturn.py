"""coturn as a process on loopback, for tests marked `processes`."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
USER, PASSWORD, REALM = "george", "secret", "example.org"


def skip_without_coturn() -> None:
    if shutil.which("turnserver") is None:
        pytest.skip("turnserver is not installed (Debian's package coturn)")


def free_port(kind: int = socket.SOCK_STREAM, host: str = HOST) -> int:
    """Return a port that nobody has at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def make_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for names and IP literals; return its file and the key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iceagent tests")])
    now = datetime.datetime.now(datetime.UTC)
    entries: list[x509.GeneralName] = []
    for name in names:
        with suppress(ValueError):
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        entries.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(entries), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return cert_file, key_file


class Coturn:
    """A running turnserver; `ca_file` is what its certificate is verified by."""

    def __init__(self, folder: Path, *options: str, host: str = HOST, names: tuple[str, ...] = (HOST,)) -> None:
        self.host = host
        self.port = free_port()
        self.tls_port = free_port()
        self._folder = folder
        self.ca_file, self._key_file = make_certificate(folder, *names)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *("turnserver", "-n", "-c", str(self._folder / "no.conf"), "--no-cli", "--allow-loopback-peers"),
            *("--listening-ip", self.host, "--listening-port", str(self.port), "--tls-listening-port"),
            *(str(self.tls_port), "--cert", str(self.ca_file), "--pkey", str(self._key_file), "--realm", REALM),
            *("--pidfile", str(self._folder / "pid"), "--log-file", "stdout", "--simple-log"),
            *(self._options or ("--lt-cred-mech", "--user", f"{USER}:{PASSWORD}")),
        ]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers_over_udp():  # the last that it opens: TCP is served a moment earlier
                with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                    return
            time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text(errors="replace"))

    def _answers_over_udp(self) -> bool:
        """Whether a Binding request (RFC 8489, no attributes) is answered at the server's UDP port."""
        request = struct.pack("!HHI", 0x0001, 0, 0x2112A442) + secrets.token_bytes(12)
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(1)
            probe.connect((self.host, self.port))
            probe.send(request)
            return probe.recv(1500)[8:20] == request[8:20]
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@contextmanager
def running_coturn(*options: str, host: str = HOST, names: tuple[str, ...] = (HOST,)) -> Iterator[Coturn]:
    """Run a turnserver for as long as the block does; without options with one user."""
    skip_without_coturn()
    with tempfile.TemporaryDirectory() as folder:
        server = Coturn(Path(folder), *options, host=host, names=names)
        try:
            server.start()
            yield server
        finally:
            server.kill()
