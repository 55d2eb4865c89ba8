"""The report of a tuning: HTML page, model card, figures and text summary."""
