"""Calibration statistics, metrics, factorization, checkpoint and export. Imports `devices` only."""
