"""One tuning from its request to what it hands out, and measuring that again."""
