"""Measuring models: metrics, and the protocols that average them over real data."""
