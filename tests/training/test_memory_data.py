"""Memory does not grow with a data set: the bench of `tests/bench/memory_data.py`, on a smaller ratio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_ten_times_the_text_is_read_and_tokenised_in_the_same_memory() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "tests/bench/memory_data.py", "0.2", "2", "--what", "tokens"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    small, large = (float(line.split("peak_mb ")[1].split()[0].replace(",", "")) for line in done.stdout.splitlines())
    assert large < small + 12  # MB; the larger text alone, with its tokens as Python numbers, would be 20 MB
