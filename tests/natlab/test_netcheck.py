"""What netcheck says of the kernel's own NATs: real sockets, real translation, and our own server of RFC 5780."""

from __future__ import annotations

from pathlib import Path

import pytest
from natlab import NatKind, open_natlab
from processes import Processes

INDEPENDENT, BY_ADDRESS, BY_PORT = "endpoint-independent", "address-dependent", "address-and-port-dependent"
EXPECTED = {
    NatKind.NONE: ("none", INDEPENDENT),
    NatKind.FULL_CONE: (INDEPENDENT, INDEPENDENT),
    NatKind.ADDRESS_RESTRICTED: (INDEPENDENT, BY_ADDRESS),
    NatKind.PORT_RESTRICTED: (INDEPENDENT, BY_PORT),
    NatKind.SYMMETRIC: (BY_PORT, BY_PORT),
}


@pytest.mark.parametrize("kind", NatKind, ids=lambda kind: kind.value)
def test_netcheck_recognises_what_the_kernel_does(
    laboratory: None, run: Processes, tmp_path: Path, kind: NatKind
) -> None:
    """`masquerade` and its options, seen from inside, by the words the command prints."""
    secret = tmp_path / "secret"
    secret.write_text("a secret of the laboratory alone\n")
    with open_natlab(kind, NatKind.NONE) as lab:
        options = ("--listen", "192.0.2.1:3478", "--alternate", "192.0.2.2:3479", "--secret-file", str(secret))
        server = run.iceagent("turn", "--json", *options, inside=lab.inside("inet"))
        server.wait_for("listening")
        check = run.iceagent("netcheck", "--json", "--no-upnp", "--stun", "stun:192.0.2.1", inside=lab.inside("host-a"))
        found = check.wait_for("nat")
        while found["family"] != 4:
            found = check.wait_for("nat")
        assert check.wait() == 0
        assert (found["mapping"], found["filtering"]) == EXPECTED[kind]
        assert found["fragments"]
        server.stop()
