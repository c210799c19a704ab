"""Entry of one rank under torchrun or srun: `torchrun --nproc-per-node 2 -m distill.ranks JOB.json`.

The job file is what `listwise run` would train: `TrainingJob.to_json()`, written as `training/job.json` by every run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from cluster.errors import ListwiseError
from distill.training.job import TrainingJob
from distill.training.trainer import train


def main(arguments: list[str]) -> int:
    """Trains on this rank; returns the exit status. Rank 0 prints metrics and the final record as JSON lines."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: torchrun … -m distill.ranks JOB.json (a run's training/job.json)", file=sys.stderr)
        return 2
    try:
        job = TrainingJob.from_json(Path(arguments[0]).read_text())
        record = train(job, on_record=lambda line: print(json.dumps(line), flush=True))
        if dist.get_rank() == 0:
            print(json.dumps(record), flush=True)
    except ListwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
