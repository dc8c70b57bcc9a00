"""From finished cells to what may be said: arms, paired comparisons, verdicts, the answer."""
