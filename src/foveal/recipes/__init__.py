"""Full runs, as functions that return a typed configuration."""
