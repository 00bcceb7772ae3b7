"""What an agent reports: events in order, statistics, traffic, and all of it as one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.agent.report.collect import collect_statistics
    from iceagent.agent.report.export import timeline_document, timeline_json
else:
    __getattr__, __dir__ = names_on_demand(
        __name__, {"collect": "collect_statistics", "export": "timeline_document timeline_json"}
    )

__all__ = ["collect_statistics", "timeline_document", "timeline_json"]
