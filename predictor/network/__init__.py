"""Latency of whole networks: layers, attention and all the rest."""
