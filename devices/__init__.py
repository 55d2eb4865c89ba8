"""Device specifications with sources, detection and alignment. Imports nothing of ours."""
