"""Which trade-off wins."""
