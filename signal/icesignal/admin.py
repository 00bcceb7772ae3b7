"""The operator's own listener: pages alone, one to a connection."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from icesignal import http
from icesignal.logs import FewLines
from icesignal.proxy import forwarded_for, forwarded_values
from icesignal.sources import IPNetwork
from icesignal.status.desk import PATH, WHY_NOT_HERE, StatusDesk

errors = logging.getLogger("icesignal.admin.errors")  # limited, as the relay's own are
errors.addFilter(FewLines())
MAX_CONNECTIONS = 64  # ours: a scraper and some people; the listener is not for strangers


class AdminDesk:
    """Answers requests with pages."""

    def __init__(
        self,
        page: Callable[[http.HttpRequest], bytes],
        status: StatusDesk | None,
        proxies: Sequence[IPNetwork],
        counters: Counter[str],
        header_timeout_s: float,
    ) -> None:
        """Take what makes answers.

        Args:
            page: gives the whole answer to a request.
            status: does so for the status page; None where there is no token for it.
            proxies: whose word on where a request comes from is believed.
            counters: of the relay.
            header_timeout_s: how long a request and its answer may take.
        """
        self._page = page
        self._status = status
        self._proxies = proxies
        self._counters = counters
        self._header_timeout_s = header_timeout_s
        self._open = 0

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """Answer one request with a page. Never raises but for cancellation."""
        if self._open >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            with trio.move_on_after(self._header_timeout_s):
                host = stream.socket.getpeername()[0]
                try:
                    request = await http.read_request(stream)
                except http.BadRequest as error:
                    await http.respond(stream, http.response(error.status, f"{error}\n"))
                else:
                    if request is not None:
                        await http.respond(stream, self._answer(request, host))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._counters["connections_broken"] += 1
        except Exception:
            self._counters["internal_errors"] += 1
            errors.exception("a page could not be made")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    def _answer(self, request: http.HttpRequest, host: str) -> bytes:
        if request.path != PATH and not request.path.startswith(f"{PATH}/"):
            return self._page(request)
        if self._status is None:
            return http.response(404, WHY_NOT_HERE, head=request.method == "HEAD")
        chain = forwarded_values(request.values(b"x-forwarded-for"), request.values(b"forwarded"))
        return self._status.answer(request, forwarded_for(host, chain, self._proxies))
