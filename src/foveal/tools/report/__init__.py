"""HTML reports: the only place that writes HTML."""
