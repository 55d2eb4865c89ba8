"""The version of autotune, as its package states it."""

__version__ = "0.1.0"
