"""The table of exit codes."""

from __future__ import annotations

import pytest

from iceagent import errors
from iceagent.cli.exits import Exit, exit_of
from iceagent.cli.joiners import example_forward, other_command
from iceagent.files import errors as files
from iceagent.link import errors as link
from iceagent.session import errors as session
from iceagent.tunnel import errors as tunnel
from iceagent.tunnel.allow import is_allowed, parse_allow
from iceagent.tunnel.spec import parse_forward
from iceagent.tunnel.wire import WireError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (session.RelayError(""), 3),
        (session.CodeError(""), 4),
        (session.NoPath(""), 5),
        (session.PeerLost(""), 5),
        (session.PeerLeft(""), 5),
        (session.NoLink(""), 5),
        (session.PeerTurnedAway(""), 8),
        (session.NobodyCame(""), 6),
        (session.VersionMismatch(""), 10),
        (session.RelayMissing(""), 2),
        (tunnel.SpecError(""), 2),
        (tunnel.BindError(""), 9),
        (errors.LocalIOError(""), 9),
        (files.TransferRefused(""), 8),
        (files.TransferFailed(""), 8),
        (tunnel.RefusedError(""), 8),
        (tunnel.FailedError(""), 8),
        (WireError(""), 8),
        (link.AuthenticationError(""), 8),
        (link.LinkClosedByPeer(""), 5),
        (link.LinkLost(""), 5),
        (link.LinkUnanswered(120, path_works=True), 5),
        (errors.LocalError(""), 2),
        (errors.NetworkError(""), 5),
        (KeyboardInterrupt(), 130),
        (ValueError(""), 1),
    ],
)
def test_each_error_has_the_code_of_its_nearest_class(error, code):
    """Scripts tell apart what to do next by these numbers alone."""
    assert exit_of(error) == code


def test_codes_are_the_documented_ones():
    """A number that changed its meaning would break scripts silently."""
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]


@pytest.mark.parametrize(
    "rule", ["tcp:localhost:22", "udp:192.0.2.1:53", "tcp:*:8000", "tcp:[::1]:*", "unix:/a", "any"]
)
def test_the_command_for_the_other_machine_asks_for_what_is_allowed(rule):
    """It is pasted as it stands; it must not be refused."""
    spec = parse_forward(example_forward(parse_allow(rule)))
    assert is_allowed([parse_allow(rule)], spec.target)


def test_the_command_for_the_other_machine_names_the_relay():
    """Unless the code carries it."""
    assert other_command("7-a-b", [], "ws://h:1") == "iceagent connect --relay ws://h:1 7-a-b"
    assert other_command("7-a-b@h:1", [], "ws://h:1") == "iceagent connect 7-a-b@h:1"
    assert other_command("7-a-b@h:1", [parse_allow("unix:/a b")], "ws://h:1") == (
        "iceagent forward -L '8080:unix:/a b' 7-a-b@h:1"
    )
