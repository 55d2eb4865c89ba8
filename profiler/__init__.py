"""Timing, backends, measuring plan and latency database. Imports `devices` only."""
