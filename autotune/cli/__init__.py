"""The command line; a thin caller of the API. Heavy imports happen inside commands."""
