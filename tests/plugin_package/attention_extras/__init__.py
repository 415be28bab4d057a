"""What somebody else brings to resonance_lens: an analysis, and an adapter for a kind of model."""
