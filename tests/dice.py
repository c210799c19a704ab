"""One seed for all throws of a session. A failure prints it; `CHAOS_SEED=N` repeats them."""

from __future__ import annotations

import os
import random
import time

SEED = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))


def throw(name: str) -> random.Random:
    """Dice of the test `name`."""
    print(f"CHAOS_SEED={SEED}")
    return random.Random(f"{SEED} {name}")
