"""Typed records of results: tuning, bench and verify, with their JSON and its older versions."""
