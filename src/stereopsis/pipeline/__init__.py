"""Workflows that join models, calibrations and files: one pair, its depth, and whole sequences."""
