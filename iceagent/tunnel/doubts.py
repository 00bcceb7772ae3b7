"""Finds rules that allow a target that does not exist, without connecting: a service may accept one connection only."""

from __future__ import annotations

import os
import socket
import stat

from iceagent.net.resolver import resolve
from iceagent.tunnel.allow import AllowRule


async def doubt_about(rule: AllowRule) -> str | None:
    """Return why nobody can reach what a rule names, in a few words; None where nothing is known against it."""
    if rule.kind == "unix":
        return _doubt_about_path(rule.path)
    if rule.host is None:
        return None
    try:
        await resolve(rule.host, rule.port or 0)
    except socket.gaierror:
        return "the name does not resolve"
    except OSError:
        return None
    return None


def _doubt_about_path(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "there is no such socket"
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else str(error)
    if not stat.S_ISSOCK(mode):
        return "it is not a socket"
    return None if os.access(path, os.R_OK | os.W_OK) else "permission denied"
