"""``python -m resonance_lens``: the command line without its entry point."""

from resonance_lens.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
