"""Honest, fast, reproducible ablations of instruction tuning."""

__version__ = "0.1.0"
