"""Timing in fresh processes: tasks, shards, points, drift."""
