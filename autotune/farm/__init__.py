"""Measuring on other machines: executors, and the processes that join a farm."""
