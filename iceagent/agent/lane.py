"""What one component of an agent consists of."""

from __future__ import annotations

from typing import NamedTuple

from iceagent.agent.driver import Driver
from iceagent.agent.gather import Gatherer


class Lane(NamedTuple):
    """The engine room of one component: what drives its part of the core, and what finds its candidates."""

    driver: Driver
    gatherer: Gatherer
