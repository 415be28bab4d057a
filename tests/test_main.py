"""``python -m resonance_lens`` is the command line."""

from __future__ import annotations

import subprocess
import sys

import resonance_lens as rl


def test_the_package_runs_as_the_command_does() -> None:
    call = [sys.executable, "-m", "resonance_lens"]
    version = subprocess.run([*call, "--version"], capture_output=True, text=True, check=True)
    assert rl.__version__ in version.stdout
    wrong = subprocess.run([*call, "prob"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("resonance-lens: ") and wrong.stdout == ""
