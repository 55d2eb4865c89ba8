"""Parts for tests: simulated hardware, disturbances of measurements, and conformance suites.

Third parties may import everything below this package. The simulation needs neither pytest nor
torch; the suites in `autotune.testing.suites` need pytest (docs/testing.md).
"""
