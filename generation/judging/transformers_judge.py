"""The judge in transformers, for machines without vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.machines.hub import cache_alone_if_silent
from cluster.machines.vllm import first_sentence
from generation.engines.models import model_folder
from generation.judging.judged import Judged, prompts_of
from generation.judging.likelihood import LikelihoodPrompts
from generation.judging.prompts import Pair
from generation.judging.rubric import Rubric
from generation.judging.settings import JudgeSettings


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
        self.prompts = prompts_of(judge, rubric, tokenizer, longest)

    async def judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        """Reads the prompts in batches of similar length."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, pairs)

    def _judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        if isinstance(self.prompts, LikelihoodPrompts):
            queries = [self.prompts.tokens(pair) for pair in pairs]
            known = [query for query in queries if query]
            means = iter(self._likelihoods([(tokens, query.count) for query in known for tokens in query.prompts]))
            return [
                Judged(np.array([[next(means) for _ in query.prompts]]), sum(map(len, query.prompts)))
                if query
                else Judged(None)
                for query in queries
            ]
        prompts = [self.prompts.tokens(pair) for pair in pairs]
        flat = [tokens for one in prompts if one for tokens in one]
        logits = iter(self._logits(flat, self.prompts.grade_ids))
        return [
            Judged(np.array([next(logits) for _ in one]), sum(map(len, one))) if one else Judged(None)
            for one in prompts
        ]

    def _likelihoods(self, prompts: list[tuple[list[int], int]]) -> np.ndarray:
        """(P,) mean log-probabilities of the last tokens of each prompt, of as many as stand beside it."""
        import torch

        found = np.empty(len(prompts))
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number][0]))
        for start_at in range(0, len(order), self.batch_size):
            batch = order[start_at : start_at + self.batch_size]
            width, most = max(len(prompts[number][0]) for number in batch), max(prompts[number][1] for number in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, number in enumerate(batch):  # padded on the left, so that the last columns hold the queries
                tokens, _ = prompts[number]
                ids[row, width - len(tokens) :] = torch.tensor(tokens)
                mask[row, width - len(tokens) :] = 1
            ids, mask = ids.to(self.device), mask.to(self.device)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.inference_mode():
                output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=most + 1)
            # the logits at a token predict the next one
            logits = output.logits[:, -most - 1 : -1].float()
            chosen = logits.gather(2, ids[:, -most:, None])[:, :, 0] - logits.logsumexp(-1)
            for row, number in enumerate(batch):
                found[number] = float(chosen[row, most - prompts[number][1] :].double().mean())
        return found

    def _logits(self, prompts: list[list[int]], grades: list[int]) -> np.ndarray:
        """(P, G) of the grades' tokens at the end of each prompt."""
        import torch

        found = np.empty((len(prompts), len(grades)))
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
            found[batch] = last[:, grades].float().cpu().numpy()
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
