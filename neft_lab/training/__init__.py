"""One training: how an optimizer step is laid out, computed, checkpointed and resumed."""
