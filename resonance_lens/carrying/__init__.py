"""Whose work is it: which heads, layers and mechanisms carry a wave that is driven along the tokens."""
