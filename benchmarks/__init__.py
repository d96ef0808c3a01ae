"""Measurements, one question a file; each prints ratios taken in one run."""
