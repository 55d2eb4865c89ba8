"""The HTML report: figures and tables of one run."""
