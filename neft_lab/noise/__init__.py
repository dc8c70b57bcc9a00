"""The embedding noise: the rule and its rivals, and the dose that was really given."""

from neft_lab.noise.rule import Examples, example_generators, locate_examples, sample_noise

__all__ = ["Examples", "example_generators", "locate_examples", "sample_noise"]
