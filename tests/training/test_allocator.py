"""Freed memory stays: a second block of the same size brings no new page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from vectoruniverse.training.allocator import keep_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(40 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def faults(**env: str) -> tuple[str, int]:
    told = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=env, timeout=120
    )
    kept, count = told.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc's allocator can be told to keep memory")
def test_blocks_are_reused_without_new_pages():
    import os

    kept, count = faults(**os.environ)
    assert kept == "True"
    left_alone, without = faults(**os.environ | {"VU_KEEP_MEMORY": "0"})
    assert left_alone == "False"
    assert count < 100 < without


def test_a_command_that_loads_nothing_leaves_the_allocator_alone(tmp_path):
    code = (
        "import sys\n"
        "from vectoruniverse.cli import main\n"
        "from vectoruniverse.training.allocator import keep_freed_memory\n"
        f"sys.argv = ['vu', 'runs', '--runs-dir', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(keep_freed_memory.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0"
