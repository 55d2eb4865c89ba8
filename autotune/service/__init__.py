"""The service: jobs that others submit, run in processes of their own, watched over HTTP."""
