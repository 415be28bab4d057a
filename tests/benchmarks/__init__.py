"""Time and memory beside a bare forward pass: ``python -m tests.benchmarks``. Nothing here is asserted."""
