"""Single layers on a device: measured, and predicted."""
