"""From scores to decisions: thresholds, conformal p-values, and selections with few false ones. Needs numpy only."""

from anomgen.calibrate.conformal import checked, cross_p_values, cross_ranks, levels, p_values, ranks, uniforms
from anomgen.calibrate.discovery import benjamini_hochberg, least_discoveries, needed, rank_cutoff, shortage
from anomgen.calibrate.online import OnlineDiscovery
from anomgen.calibrate.threshold import (
    AUTO_SHARE,
    quantiles,
    rate_rank,
    rate_threshold,
    share,
    threshold,
    threshold_from,
)

__all__ = [
    "AUTO_SHARE",
    "OnlineDiscovery",
    "benjamini_hochberg",
    "checked",
    "cross_p_values",
    "cross_ranks",
    "least_discoveries",
    "levels",
    "needed",
    "p_values",
    "quantiles",
    "rank_cutoff",
    "ranks",
    "rate_rank",
    "rate_threshold",
    "share",
    "shortage",
    "threshold",
    "threshold_from",
    "uniforms",
]
