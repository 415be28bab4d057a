"""Inference over prompts: intervals and seeded random streams."""
