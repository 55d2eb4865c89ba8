"""Statistics that every predictor uses: conformal quantiles, Gaussian processes, designs."""
