"""Laboratories that all tests here share: a LAN, and two homes behind NATs, with a STUN server on the internet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from interop import IMPLEMENTATIONS, Implementation
from lab import Home, Internet, Lab, open_lab, why_not
from processes import processes


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
def lan(laboratory: ExitStack) -> Lab:
    """Two hosts of one home, with both IP versions: `host-a` and `host-a2`."""
    return laboratory.enter_context(open_lab(Home(hosts=2), Home(), Internet(families=(4, 6))))


@pytest.fixture(scope="session")
def homes(laboratory: ExitStack) -> Lab:
    """Two homes behind port-restricted NATs; a STUN server listens at port 3478 of the internet's host."""
    lab = laboratory.enter_context(open_lab())
    run = laboratory.enter_context(processes())
    listening = ("serve", "--json", "--listen", f"{lab.internet.host}:3478")
    run.iceagent(*listening, inside=lab.inside("inet")).wait_for("listening")
    return lab
