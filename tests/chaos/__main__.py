"""Rounds of all fault tests with different seeds, and a table of the results.

    python -m tests.chaos [--rounds 20] [--seed N] [--ledger FILE] [--write docs/reliability.md]

Each round is a run of pytest with the seed N, N + 1, …. A failing round prints its seed and its failed tests, and the
next round begins. With `--ledger` the figures are added to those of earlier rounds in a file. With `--write` the table
replaces the section "Rounds" of a Markdown file.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.ledger import VARIABLE, table

ROOT = Path(__file__).parents[2]
VLLM = (
    "tests/generation/test_vllm_engine.py::"
    "test_every_unit_is_accounted_for_even_if_the_engine_is_killed_on_the_way[killed]"
)
VLLM_EVERY = 4  # rounds: this test is slow, because vLLM loads for most of it


def one_round(seed: int, ledger: Path, tests: list[str]) -> list[str]:
    """The names of the tests that fail with this seed."""
    environment = os.environ | {"CHAOS_SEED": str(seed), "CHAOS_FULL": "1", VARIABLE: str(ledger)}
    command = [sys.executable, "-m", "pytest", "-rfEs", "--durations=0", "-m", "cluster or not cluster", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if "NOT TRIED" in line:
            print(line, flush=True)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.M)
    if done.returncode and not failed:
        failed = ["pytest itself"]
    if failed:
        print(done.stdout[-20_000:], done.stderr[-2_000:], flush=True)
    return [name.rpartition("::")[2] for name in failed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--ledger", type=Path, help="file to add figures to; without it they are not kept")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    failed: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = arguments.ledger or Path(folder, "ledger")
        for number in range(arguments.rounds):
            seed, begun = arguments.seed + number, time.monotonic()
            names = one_round(seed, ledger, ["tests/chaos", *([] if seed % VLLM_EVERY else [VLLM])])
            for name in names:
                failed[name] = failed.get(name, 0) + 1
            verdict = f"FAILED: {', '.join(names)}" if names else "passed"
            print(f"round {number + 1}, seed {seed}: {verdict} in {time.monotonic() - begun:.0f} s", flush=True)
        results = table(ledger, failed)
    first, last = arguments.seed, arguments.seed + arguments.rounds - 1
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    section = f"## Rounds\n\n`make chaos`, seeds {first} to {last}, {machine}:\n\n{results}\n"
    print(section)
    if arguments.write:
        text = arguments.write.read_text()
        other_sections = re.sub(r"## Rounds\n.*?(?=\n## |\Z)", "", text, flags=re.S).rstrip()
        arguments.write.write_text(f"{other_sections}\n\n{section}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
