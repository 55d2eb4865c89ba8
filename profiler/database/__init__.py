"""The latency database: schema, seals, exchange, audit."""
