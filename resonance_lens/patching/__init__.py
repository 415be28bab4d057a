"""Interventions: what a pattern found by an analysis does to the model's answers."""
