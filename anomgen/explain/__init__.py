"""Why rows are surprising: where in an image, and by which columns of a table."""

from anomgen.explain.columns import contributions, missing_for_columns, top_contributors, usual_nats
from anomgen.explain.maps import map_quantiles, overlay, save_overlays, scaled, surprise, surprise_maps

__all__ = [
    "contributions",
    "map_quantiles",
    "missing_for_columns",
    "overlay",
    "save_overlays",
    "scaled",
    "surprise",
    "surprise_maps",
    "top_contributors",
    "usual_nats",
]
