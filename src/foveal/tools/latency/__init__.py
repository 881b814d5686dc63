"""How long networks take: two protocols, several engines, one table."""

from foveal.tools.latency.engines import ENGINES
from foveal.tools.latency.run import LatencySettings, measure_latency
from foveal.tools.latency.table import LatencyRow, LatencyTable

__all__ = ["ENGINES", "LatencyRow", "LatencySettings", "LatencyTable", "measure_latency"]
