"""Ready tasks: pairs of prompts made from templates with a model's own tokenizer, which the model solves."""

from resonance_lens.patching.ready.making import PairsInfo, list_pairs, prompt_pairs

__all__ = ["PairsInfo", "list_pairs", "prompt_pairs"]
