"""Laboratories that all tests here share: a LAN, and two homes behind NATs, with a STUN server on the internet."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from interop import IMPLEMENTATIONS, Implementation
from natlab import Home, Internet, Natlab, open_natlab, why_not
from processes import processes

USERNAME, PASSWORD = "alice", "correct horse"
OUR_PORT, COTURN_PORT = 3478, 3480


def pytest_report_header() -> list[str]:
    """Say who cannot be tested here, and why."""
    return [f"interop: {reason}" for one in IMPLEMENTATIONS if (reason := one.why_not())]


@pytest.fixture(params=IMPLEMENTATIONS, ids=str, scope="session")
def other(request: pytest.FixtureRequest) -> Implementation:
    """An ICE stack that nobody here wrote, if it is installed."""
    implementation: Implementation = request.param
    if reason := implementation.why_not():
        pytest.skip(reason)
    return implementation


@pytest.fixture(scope="session")
def laboratory() -> Iterator[ExitStack]:
    """Keep what is built until the end; skip all where nothing can be."""
    if reason := why_not():
        pytest.skip(f"no laboratory here: {reason}")
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def lan(laboratory: ExitStack) -> Natlab:
    """Two hosts of one home, with both IP versions: `host-a` and `host-a2`."""
    return laboratory.enter_context(open_natlab(Home(hosts=2), Home(), Internet(families=(4, 6))))


@pytest.fixture(scope="session")
def homes(laboratory: ExitStack) -> Natlab:
    """Two homes behind port-restricted NATs; our server listens at port 3478 of the internet's host."""
    lab = laboratory.enter_context(open_natlab())
    run = laboratory.enter_context(processes())
    folder = Path(laboratory.enter_context(tempfile.TemporaryDirectory(prefix="iceagent-interop-")))
    (folder / "users").write_text(f"{USERNAME}:{PASSWORD}\n")
    options = ("turn", "--json", "--listen", f"{lab.internet.host}:{OUR_PORT}", "--users", str(folder / "users"))
    # These networks are for documentation, so that a relay on the real internet has no business there.
    allowed = [word for net in ("203.0.113.0/24", "198.51.100.0/24") for word in ("--allow-peer", net)]
    run.iceagent(*options, *allowed, inside=lab.inside("inet")).wait_for("listening")
    return lab


@pytest.fixture(scope="session")
def coturn(laboratory: ExitStack, homes: Natlab) -> int:
    """coturn on the internet's host of the two homes; its port."""
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed; `make interop` does it")
    run = laboratory.enter_context(processes())
    host = homes.internet.host
    options = ["-n", "--listening-ip", host, "--listening-port", str(COTURN_PORT), "--relay-ip", host, "--no-cli"]
    options += ["--lt-cred-mech", "--user", f"{USERNAME}:{PASSWORD}", "--realm", "interop", "--no-tls", "--no-dtls"]
    server = run.start(*homes.inside("inet", "turnserver"), *options, "--log-file", "stdout", "--pidfile", "")
    while "IO method (general relay thread)" not in server.wait_for("text")["text"]:
        pass
    return COTURN_PORT


@pytest.fixture(params=["our server", "coturn"])
def relay(request: pytest.FixtureRequest, homes: Natlab) -> dict[str, Any]:
    """The options of a peer that may use a relay."""
    port = OUR_PORT if request.param == "our server" else request.getfixturevalue("coturn")
    return {"turn": [homes.internet.host, port], "username": USERNAME, "password": PASSWORD}
