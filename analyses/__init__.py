"""The named analyses: one file each, found by its name; nothing else lives here."""

if __name__ != "resonance_lens.analyses":
    # Started from the repository root, `import analyses` would load a second copy of this
    # package and fill the registry twice.
    raise ImportError("import resonance_lens.analyses; this folder is not importable on its own")
