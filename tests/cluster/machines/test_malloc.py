"""glibc keeps freed memory for the next step, and returns it to the system if it is more than the step needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2**20
PROGRAM = f"""
import psutil, torch
from cluster.machines.malloc import freed_bytes, keep_freed_memory, trim_freed_memory

def resident():
    return psutil.Process().memory_info().rss // {MIB}

keep_freed_memory()
tensors = [torch.ones({MIB}) for _ in range(200)]
full = resident()
del tensors
print(full - resident(), freed_bytes() // {MIB})
trim_freed_memory(needed=1400 * {MIB})
print(full - resident(), freed_bytes() // {MIB})
trim_freed_memory(needed=260 * {MIB})
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has glibc")
def test_memory_that_the_next_step_needs_is_kept_and_more_is_returned():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    returned, free, returned_by_small_trim, still_free, returned_by_large_trim = map(int, done.stdout.split())
    assert returned < 100 and returned_by_small_trim < 100, "of 800 MiB that were freed"
    assert free >= 750 and still_free >= 750
    assert returned_by_large_trim >= 750
