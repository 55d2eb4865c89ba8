"""The commands that run the service and those that talk to it."""
