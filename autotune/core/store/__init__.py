"""Databases of ours on SQLite and PostgreSQL."""
