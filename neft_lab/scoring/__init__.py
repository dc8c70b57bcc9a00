"""Scoring continuations with a causal language model, every shared prefix computed once."""

from neft_lab.scoring.model import PrefixSharingLM

__all__ = ["PrefixSharingLM"]
