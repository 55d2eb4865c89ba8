"""What a tuning hands out, as records."""
