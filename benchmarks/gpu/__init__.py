"""What has to be seen on a GPU, in one process and in minutes: that the arithmetic is right, and how fast it is.

    python -m benchmarks.gpu [--out gpu.json] [--minutes 8] [--dry]

Reading order: `parts` (what a part is, and the report), `shapes` and `material` (random models, texts and lists), then
the parts in the order in which `__main__` runs them. `docs/gpu.md` says what each of them shows.
"""

from __future__ import annotations

import time

BEGUN = time.monotonic()  # this is imported first, so the import of torch counts
