"""Finds out what NATs do (RFC 5780, RFC 7050), and predicts what two of them let through (RFC 4787)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.discovery.behaviour import (
        Filtering,
        MappingBehaviour,
        MappingLifetime,
        NatBehaviour,
        ServerReport,
        classify_filtering,
        classify_mapping,
    )
    from iceagent.core.discovery.discovery import Discovery, DiscoverySockets
    from iceagent.core.discovery.prediction import FamilyView, PredictedPath, Prediction, SideView, meets, predict
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "behaviour": "Filtering MappingBehaviour MappingLifetime NatBehaviour ServerReport classify_filtering "
            "classify_mapping",
            "discovery": "Discovery DiscoverySockets",
            "prediction": "FamilyView PredictedPath Prediction SideView meets predict",
        },
    )

__all__ = [
    "Discovery",
    "DiscoverySockets",
    "FamilyView",
    "Filtering",
    "MappingBehaviour",
    "MappingLifetime",
    "NatBehaviour",
    "PredictedPath",
    "Prediction",
    "ServerReport",
    "SideView",
    "classify_filtering",
    "classify_mapping",
    "meets",
    "predict",
]
