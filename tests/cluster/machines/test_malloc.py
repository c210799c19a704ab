"""Freed memory stays for the next step, and goes back where it is more than that needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2**20
WITHIN = f"""
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux'")
def test_what_the_next_step_needs_stays_and_what_is_more_goes_back():
    done = subprocess.run([sys.executable, "-c", WITHIN], capture_output=True, text=True, check=True)
    gone, free, still_gone, still_free, given_back = map(int, done.stdout.split())
    assert gone < 100 and still_gone < 100, "of 800 MiB that were freed"
    assert free >= 750 and still_free >= 750
    assert given_back >= 750
