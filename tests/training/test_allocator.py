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


HOLES = """
import torch
from vectoruniverse.training.allocator import give_back_freed, keep_freed_memory
keep_freed_memory()
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon"))
blocks = [torch.ones(2**20, dtype=torch.uint8) for _ in range(200)]
kept = blocks[::2]
del blocks
before = resident()
give_back_freed()
print(before - resident(), all(bool(block.all()) for block in kept))
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc's allocator can be told to give back")
def test_gaps_between_blocks_in_use_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, timeout=120)
    mib, intact = done.stdout.split()
    assert int(mib) > 80 and intact == "True"


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
