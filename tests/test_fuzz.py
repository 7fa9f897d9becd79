"""Mutated files, 200 of them in a process of their own; benchmarks/fuzz_readers.py reads any number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "fuzz_readers.py"


def test_mutated_files_are_read_or_refused() -> None:
    command = [sys.executable, str(SCRIPT), "--files", "200", "--seed", "1"]
    # coverage and warnings of the tests do not reach into it: it counts what comes out
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("200 files, seed 1;")
