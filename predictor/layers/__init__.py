"""Latency of layers, dense and low-rank."""
