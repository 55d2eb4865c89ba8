"""The commands that run the service, and the ones that use it as a client."""
