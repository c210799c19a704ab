"""The judge in a vLLM engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cluster.errors import InputError
from generation.engines.vllm_start import end_process, start
from generation.judging.judged import Judged, as_generation, prompts_of
from generation.judging.likelihood import LikelihoodPrompts, QueryTokens
from generation.judging.prompts import Pair
from generation.judging.rubric import Rubric
from generation.judging.settings import JudgeSettings


class VllmJudge:
    """A vLLM engine on the devices of this process.

    `logprob_token_ids` makes vLLM give the log-probabilities of exactly the grades' tokens, however unlikely they are.
    """

    def __init__(self, judge: JudgeSettings, rubric: Rubric) -> None:
        self.engine, _ = start(as_generation(judge))
        try:
            most = int(self.engine.model_config.max_model_len) - 1
            self.prompts = prompts_of(judge, rubric, self.engine.get_tokenizer(), most)
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
        except EngineDeadError as error:
            end_process(error)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, pair: Pair) -> Judged:
        async with self._slots:
            loop = asyncio.get_running_loop()
            if isinstance(self.prompts, LikelihoodPrompts):
                query = await loop.run_in_executor(self._rendering, self.prompts.tokens, pair)
                return await self._likelihood(query) if query else Judged(None)
            prompts = await loop.run_in_executor(self._rendering, self.prompts.tokens, pair)
            return await self._grades(prompts, self.prompts.grade_ids) if prompts else Judged(None)

    async def _grades(self, prompts: list[list[int]], grades: list[int]) -> Judged:
        """The log-probabilities of the grades' tokens after each prompt."""
        outputs = [await self._ask(tokens, logprob_token_ids=grades, detokenize=False) for tokens in prompts]
        after = [output.outputs[0].logprobs[0] for output in outputs]
        logits = np.array([[one[token].logprob for token in grades] for one in after])
        return Judged(logits, sum(map(len, prompts)), sum(output.num_cached_tokens or 0 for output in outputs))

    async def _likelihood(self, query: QueryTokens) -> Judged:
        """The mean log-probability of the query's tokens in each prompt; vLLM takes none of it from its cache."""
        means = []
        for tokens in query.prompts:
            known = (await self._ask(tokens, prompt_logprobs=0)).prompt_logprobs[-query.count :]
            own = zip(known, tokens[-query.count :], strict=True)
            means.append(float(np.mean([step[token].logprob for step, token in own])))
        return Judged(np.array([means]), sum(map(len, query.prompts)))

    async def _ask(self, tokens: list[int], **wanted: Any) -> Any:
        """What vLLM says of a prompt: the log-probabilities that are wanted, in the words of its `SamplingParams`."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        self._asked += 1
        # it reads a prompt only on the way to a token
        sampling = SamplingParams(max_tokens=1, temperature=0, output_kind=RequestOutputKind.FINAL_ONLY, **wanted)
        last: Any = None
        async for output in self.engine.generate(tokens_input(tokens), sampling, f"grade-{self._asked}"):
            last = output
        return last

    def close(self) -> None:
        """Ends the engine's processes."""
        self._rendering.shutdown(wait=False, cancel_futures=True)
        self.engine.shutdown()
