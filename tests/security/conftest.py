"""The service's application without a network, for attacks that only a submission needs."""

from tests.autotune.service.conftest import client, database, roots, settings

__all__ = ["client", "database", "roots", "settings"]
