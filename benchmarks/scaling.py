"""Steps of the trainer on 1, 2 and 4 gloo ranks of this machine, against the model of `distill/training/step_time.py`.

    python -m benchmarks.scaling [--queries 48] [--ranks 1 2 4]

Every rank has one thread. Two figures of the machine are measured for the model: the encoder's operations per second on
one rank, and the bandwidth of an all-reduce between ranks. Texts are random token ids of random lengths; the student is
MiniLM.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, CORPUS, STEPS = 10, 2000, 3
MODEL = "all-MiniLM-L6-v2"


def write_texts(folder: Path, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes random token files; returns the lists and their scores, both (N, L)."""
    import pyarrow as pa

    from distill.encoders.tokens import _SCHEMA

    random = np.random.default_rng(0)
    for name, count, low, high in (("queries", queries, 8, 20), ("passages", CORPUS, 60, 128)):
        ids = [random.integers(1000, 30_000, random.integers(low, high)).astype(np.int32) for _ in range(count)]
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(pa.record_batch([pa.array(ids, type=_SCHEMA.field(0).type)], schema=_SCHEMA))
    lists = np.stack([random.permutation(CORPUS)[:LENGTH] for _ in range(queries)])
    return lists, np.sort(random.random(lists.shape), axis=1)[:, ::-1].astype(np.float32).copy()


def run_rank(number: int, ranks: int, port: int, folder: Path, queries: int, results: Any) -> None:
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    import torch
    import torch.distributed as dist

    from distill.activations.activations import Activations
    from distill.encoders.compute.choose import choose_for_training
    from distill.encoders.device import resolve_dtype
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.tokens import TokenFile
    from distill.losses.batch import LossSettings
    from distill.settings.encoders import StudentSettings
    from distill.settings.training import TrainingSettings
    from distill.training.batches import plan_step
    from distill.training.deepspeed_engine import start_engine, step_optimizer
    from distill.training.process_group import join_ranks
    from distill.training.step import Stepper

    torch.set_num_threads(1)
    join_ranks("cpu")
    model = load_model(StudentSettings(model=MODEL), "cpu")
    lists, scores = write_texts(folder / str(number), queries)
    tokens = [TokenFile(folder / str(number) / name) for name in ("queries", "passages")]
    student = EncoderModule(model, "cpu", resolve_dtype("auto", "cpu"))
    layout = choose_for_training(student, tokens[1], model.tokenizer.pad_token_id, TrainingSettings())
    engine = start_engine(student, TrainingSettings(), ranks)
    stepper = Stepper(engine, *tokens, LossSettings(), Activations(engine, student, 1 << 40), layout)
    plan = plan_step(np.arange(queries), lists, tokens[0].lengths, tokens[1].lengths, ranks, 1024)
    seconds, padded = [], 0
    for _ in range(STEPS + 1):  # the first one is a warm-up
        dist.barrier()
        start = time.perf_counter()
        padded = stepper.run(stepper.prepare(plan, scores[plan.queries])).computed_tokens
        step_optimizer(engine)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    probe, times = torch.ones(8 << 20), []
    for _ in range(3):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(probe)
        times.append(time.perf_counter() - start)
    weights = sum(
        weight.numel() for name, weight in model.named_parameters() if weight.ndim == 2 and "embeddings" not in name
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    bandwidth = 2 * probe.numel() * 4 * (ranks - 1) / ranks / min(times)
    results.put((number, statistics.median(seconds[1:]), padded, weights, parameters, bandwidth, len(plan.passages)))
    dist.barrier()
    dist.destroy_process_group()


def measure(ranks: int, queries: int) -> list[tuple[Any, ...]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as name:
        for number in range(ranks):
            (Path(name) / str(number)).mkdir()
        arguments = (ranks, port, Path(name), queries, results)
        processes = [context.Process(target=run_rank, args=(number, *arguments)) for number in range(ranks)]
        for process in processes:
            process.start()
        measured = sorted(results.get(timeout=300) for _ in processes)
        for process in processes:
            process.join()
    return measured


def main() -> None:
    from distill.training.step_time import Machine, Work, step_time

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=48)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    measured = {ranks: measure(ranks, options.queries) for ranks in options.ranks}
    _, one_rank_s, padded, weights, parameters, _, passages = measured[min(measured)][0]
    length = padded / (passages + options.queries)  # an approximation, because queries are shorter
    work = Work(options.queries, passages, length, length, weights, parameters, 6, 384, 384)
    unit_speed = Machine(1.0, 5e10, 1e10, 1 << 30, 1.0, 1.0, 1e-4, cores)
    parts = step_time(work, unit_speed, 1)
    flops = parts.encode / (one_rank_s - parts.loss - parts.optimizer)
    print("| ranks | bandwidth between ranks | measured | model | model : measured |")
    print("|---|---|---|---|---|")
    for ranks, results in measured.items():
        seconds = statistics.median(result[1] for result in results)
        bandwidth = statistics.median(result[5] for result in results)
        machine = replace(unit_speed, flops=flops, inside=max(bandwidth, 1.0))
        total = step_time(work, machine, ranks).total
        print(f"| {ranks} | {bandwidth / 1e9:.2f} GB/s | {seconds:.2f} s | {total:.2f} s | {total / seconds:.2f} |")
    print(
        f"\n{MODEL}, {options.queries} lists of {LENGTH}, {passages} passages, {padded:,} tokens a step, "
        f"{cores} cores, one thread a rank, {flops / 1e9:.0f} GFLOP/s of the encoder on one rank."
    )


if __name__ == "__main__":
    main()
