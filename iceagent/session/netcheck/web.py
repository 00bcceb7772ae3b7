"""One HTTP request, and what its response shows: a captive portal, a proxy, a wrong clock."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

import h11
import icesignal
import trio

from iceagent.core.address import TransportAddress
from iceagent.core.printable import printable
from iceagent.net import Network
from iceagent.net.staggered import first_of, interleave
from iceagent.net.tls import wrap_tls
from iceagent.session.netcheck.report import WebReport

MAX_BODY: Final = 4096
MAX_HEAD: Final = 16384
_RECEIVE: Final = 4096


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP answer, its body cut at 4 KiB."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A page whose content is known beforehand: `body` None does not matter."""

    url: str
    status: int
    body: bytes | None = None


def relay_question(relay_url: str) -> KnownPage | None:
    """Return the page that shows that a relay lives; None for the URL of something else."""
    try:
        place = icesignal.parse_relay_url(relay_url)
    except ValueError:
        return None
    where, _, _ = place.shown.removeprefix("ws").removeprefix("s").removeprefix("://").partition("/")
    return KnownPage(f"{'https' if place.is_tls else 'http'}://{where}/healthz", 200, b"ok\n")


def environment_proxy(scheme: str) -> str | None:
    """Return the proxy the environment names for a scheme, without user and password; None without one."""
    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("https") or proxies.get("http") or proxies.get("all")
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


async def look_at_web(network: Network, question: KnownPage | None) -> WebReport:
    """Ask the question and compare; without one, return what the environment says. Raises only cancellation."""
    if question is None:
        return WebReport(proxy=environment_proxy("https"))
    report = WebReport(proxy=environment_proxy(urlsplit(question.url).scheme))
    try:
        answer = await fetch(network, question.url)
    except ssl.SSLCertVerificationError as error:
        detail = f"{urlsplit(question.url).hostname} shows a certificate that is not its own: {error.verify_message}"
        return replace(report, intercepted=True, detail=detail)
    except (OSError, h11.RemoteProtocolError, trio.BrokenResourceError) as error:
        return replace(report, detail=f"{question.url}: {error}")
    intercepted, detail = judge(question, answer)
    return replace(report, intercepted=intercepted, detail=detail, clock_offset_s=clock_offset_s(answer, time.time()))


def judge(question: KnownPage, answer: HttpAnswer) -> tuple[bool, str]:
    """Return whether somebody else answered, and what shows it."""
    if answer.status in (301, 302, 303, 307, 308, 511):
        where = answer.headers.get("location", "")
        return True, f"{question.url} is answered with {answer.status}" + (f", to {printable(where)}" if where else "")
    if answer.status != question.status:
        return True, f"{question.url} is answered with {answer.status} instead of {question.status}"
    if question.body is not None and answer.body != question.body:
        return True, f"{question.url} is answered with another page than its own"
    return False, ""


def clock_offset_s(answer: HttpAnswer, now: float) -> float | None:
    """Return how far `now`, seconds since 1970, is ahead of the answer's Date; None where it has none."""
    try:
        return round(now - parsedate_to_datetime(answer.headers.get("date", "")).timestamp(), 1)
    except (ValueError, TypeError, OverflowError):
        return None


async def fetch(network: Network, url: str) -> HttpAnswer:
    """Return the answer to a GET.

    Raises:
        OSError: the host cannot be reached, or its certificate is not its own.
        h11.RemoteProtocolError: the answer is no HTTP.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = host.removesuffix(".") if parts.scheme == "https" else ""
    stream = await connect(network, await network.resolve(host, port), tls_name=name)
    async with stream:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("Host", host_header(parts)), ("User-Agent", "iceagent"), ("Connection", "close")]
        question = connection.send(h11.Request(method="GET", target=target, headers=headers))
        await stream.send_all((question or b"") + (connection.send(h11.EndOfMessage()) or b""))
        return await _read_answer(connection, stream)


def host_header(parts: SplitResult) -> str:
    """Return what `Host` says: no zone, no final dot, and the port only if it is not the scheme's own."""
    name = (parts.hostname or "").partition("%")[0].removesuffix(".")
    literal = f"[{name}]" if ":" in name else name
    default = 443 if parts.scheme == "https" else 80
    return literal if parts.port in (None, default) else f"{literal}:{parts.port}"


async def connect(network: Network, places: list[TransportAddress], *, tls_name: str = "") -> trio.abc.Stream:
    """Connect to the first place that lets us, inside TLS if there is a name to verify.

    Raises:
        OSError: none does.
    """

    async def attempt(place: TransportAddress) -> trio.abc.Stream:
        plain = await network.connect_tcp(place)
        return await wrap_tls(plain, ssl.create_default_context(), tls_name) if tls_name else plain

    return await first_of(interleave(places), attempt, discard=trio.aclose_forcefully)


async def _read_answer(connection: h11.Connection, stream: trio.abc.Stream) -> HttpAnswer:
    status, headers, body = 0, {}, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {
                bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1") for name, value in event.headers
            }
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > MAX_BODY:
                return HttpAnswer(status, headers, body[:MAX_BODY])
        elif not isinstance(event, h11.InformationalResponse):
            return HttpAnswer(status, headers, body)
