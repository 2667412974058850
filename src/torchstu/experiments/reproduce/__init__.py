"""Named experiments with frozen settings: what `torchstu reproduce` runs."""
