"""Features, latency regressor with intervals, latency table, whole-network latency."""
