"""The service: jobs submitted and watched over HTTP, each of which runs in its own process."""
