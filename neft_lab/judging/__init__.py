"""Pairwise judges: who compares two answers, how they are asked, and what their verdicts are worth."""
