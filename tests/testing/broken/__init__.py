"""Implementations that break their contract, each with the suite that must find it."""
