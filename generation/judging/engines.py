"""Who computes the grades: vLLM in the worker, or transformers where there is no vLLM. Both give the same numbers.

Neither writes text. They read each prompt once, and give the logits of the grades' tokens at its end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster.errors import InputError, RunError
from cluster.machines.hub import cache_alone_if_silent
from cluster.machines.vllm import first_sentence
from generation.engines.models import find_model, model_folder
from generation.engines.vllm_start import start
from generation.judging.prompts import JudgePrompts, Pair
from generation.judging.rubric import Rubric, load_rubric
from generation.judging.settings import JudgeSettings
from generation.mixture import Section, in_section
from generation.settings import GenerationSettings

JUDGE = Section(field="generation.judge")  # names it in messages


@dataclass(frozen=True)
class Judged:
    """What a model says of a query.

    Attributes:
        logits: (C, G) float64, of each criterion's grades, up to what is the same for all grades; None: the prompt does
            not fit the model's context.
        prompt_tokens: read.
        cached_tokens: of these, from the prefix cache.
    """

    logits: np.ndarray | None
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Judge(Protocol):
    """An engine of the judge."""

    async def judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        """One for each pair, in their order; pairs of one passage are neighbours."""
        ...

    def close(self) -> None:
        """Ends the engine."""
        ...


def open_judge(judge: JudgeSettings, rubric: Rubric) -> Judge:
    """Loads the model.

    Raises:
        InputError: it cannot be found or loaded, or a grade of the rubric is not one of its tokens.
        RunError: the engine does not start.
    """
    try:
        return VllmJudge(judge, rubric) if judge.engine == "vllm" else TransformersJudge(judge, rubric)
    except (InputError, RunError) as error:
        if type(error) not in (InputError, RunError):
            raise
        raise type(error)(in_judge(str(error))) from error


def check_judge(judge: JudgeSettings) -> None:
    """Looks at rubric and model before anything is started.

    Raises:
        InputError: the rubric has mistakes; or the model does not exist, or its weights are not safe to read.
    """
    load_rubric(judge)
    try:
        find_model(judge.model, judge.revision)
    except InputError as error:
        raise InputError(in_judge(str(error))) from None


def in_judge(message: str) -> str:
    """A message about `generation.model`, which names `generation.judge.model`."""
    return message if "generation.judge." in message else in_section(message, JUDGE)


def as_generation(judge: JudgeSettings) -> GenerationSettings:
    """The settings of the vLLM engine that the judge's model runs in."""
    same = (
        "model", "revision", "max_model_len", "tensor_parallel", "engine_args", "trust_remote_code", "concurrency",
        "pool",
    )  # fmt: skip
    return GenerationSettings(engine="vllm", **{name: getattr(judge, name) for name in same})


class VllmJudge:
    """A vLLM engine on the devices of this process.

    `logprob_token_ids` makes vLLM give the log-probabilities of exactly the grades' tokens, however unlikely they are.
    """

    def __init__(self, judge: JudgeSettings, rubric: Rubric) -> None:
        self.engine, _ = start(as_generation(judge))
        try:
            most = int(self.engine.model_config.max_model_len) - 1
            self.prompts = JudgePrompts(judge, rubric, self.engine.get_tokenizer(), most)
        except InputError:
            self.engine.shutdown()
            raise
        self._slots = asyncio.Semaphore(judge.concurrency)
        self._rendering = ThreadPoolExecutor(1, "prompts")  # one: fast tokenizers do not like to be shared
        self._asked = 0

    async def judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        """Asks for all grades at the same time, as far as `concurrency` goes."""
        from vllm.v1.engine.exceptions import EngineDeadError

        tasks = [asyncio.ensure_future(self._one(pair)) for pair in pairs]
        try:
            return list(await asyncio.gather(*tasks))
        except EngineDeadError:
            os._exit(1)  # so that a broken engine takes no retry; the pool replaces this worker
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, pair: Pair) -> Judged:
        async with self._slots:
            loop = asyncio.get_running_loop()
            prompts = await loop.run_in_executor(self._rendering, self.prompts.tokens, pair)
            if prompts is None:
                return Judged(None)
            asked = [await self._ask(tokens) for tokens in prompts]
        logits = np.array([logprobs for logprobs, _ in asked])
        return Judged(logits, sum(map(len, prompts)), sum(cached for _, cached in asked))

    async def _ask(self, tokens: list[int]) -> tuple[list[float], int]:
        """Log-probabilities of the grades' tokens, and how many tokens came from the prefix cache."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        self._asked += 1
        ids = self.prompts.grade_ids
        sampling = SamplingParams(
            max_tokens=1, temperature=0, detokenize=False, logprob_token_ids=ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        last: Any = None
        async for output in self.engine.generate(tokens_input(tokens), sampling, f"grade-{self._asked}"):
            last = output
        at = last.outputs[0].logprobs[0]
        return [at[token].logprob for token in ids], last.num_cached_tokens or 0

    def close(self) -> None:
        """Ends the engine's processes."""
        self._rendering.shutdown(wait=False, cancel_futures=True)
        self.engine.shutdown()


class TransformersJudge:
    """The model in this process, on its GPU if it holds one."""

    def __init__(self, judge: JudgeSettings, rubric: Rubric) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = model_folder(judge.model, judge.revision)
        where = {"revision": judge.revision or "main", "trust_remote_code": judge.trust_remote_code}
        self.device = "cuda" if judge.pool.gpus and torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            with cache_alone_if_silent(folder, judge.revision):
                tokenizer = AutoTokenizer.from_pretrained(folder, **where)
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **where)
        except (OSError, ValueError) as error:
            raise InputError(
                f"generation.judge.model: transformers cannot load '{judge.model}': {first_sentence(error)} "
                "Expected a folder with a language model, or an id that the hub or its local cache has."
            ) from error
        self.model: Any = model.to(self.device).eval()  # type: ignore[arg-type]
        self.batch_size = judge.batch_size
        self._thread = ThreadPoolExecutor(1, "judge")  # two tasks at a time would share the tokenizer
        limit = getattr(model.config, "max_position_embeddings", None) or judge.max_model_len
        longest = min(limit, judge.max_model_len) if limit and judge.max_model_len else limit
        self.prompts = JudgePrompts(judge, rubric, tokenizer, longest)

    async def judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        """Reads the prompts in batches of similar length."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, pairs)

    def _judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        prompts = [self.prompts.tokens(pair) for pair in pairs]
        flat = [tokens for one in prompts if one for tokens in one]
        logits = iter(self._logits(flat))
        return [
            Judged(np.array([next(logits) for _ in one]), sum(map(len, one))) if one else Judged(None)
            for one in prompts
        ]

    def _logits(self, prompts: list[list[int]]) -> np.ndarray:
        """(P, G) of the grades' tokens at the end of each prompt."""
        import torch

        found = np.empty((len(prompts), len(self.prompts.grade_ids)))
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for start_at in range(0, len(order), self.batch_size):
            batch = order[start_at : start_at + self.batch_size]
            width = max(len(prompts[number]) for number in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, number in enumerate(batch):
                # padded on the right, where a causal model does not look from the last token of the prompt
                ids[row, : len(prompts[number])] = torch.tensor(prompts[number])
                mask[row, : len(prompts[number])] = 1
            ids, mask = ids.to(self.device), mask.to(self.device)
            ends, place = torch.unique(mask.sum(1) - 1, return_inverse=True)  # the others' logits are not computed
            with torch.inference_mode():
                output = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=ends)
            last = output.logits[torch.arange(len(batch)), place]
            found[batch] = last[:, self.prompts.grade_ids].float().cpu().numpy()
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
