"""Measuring on other machines: executors, and the processes that make up a farm."""
