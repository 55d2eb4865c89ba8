"""Latency of whole networks."""
