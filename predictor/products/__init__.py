"""Latency of single matrix products."""
