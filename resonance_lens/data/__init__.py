"""Prompts and texts that ship with the package; see SOURCES.md."""
