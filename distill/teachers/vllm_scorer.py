"""Causal language models as teachers on vLLM: one forward pass a pair; what pairs begin with alike is computed once.

For scores vLLM runs the model as a classifier whose only weights are those of the two tokens, in float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.errors import InputError, RunError
from cluster.machines.engine_log import EngineLog, explain
from cluster.machines.hub import cache_alone_if_silent
from cluster.machines.vllm import (
    CPU_CACHE_BYTES,
    CPU_EXECUTOR,
    LIKELIHOOD_ARGS,
    SAFE_FORMATS,
    first_sentence,
    keep_sockets_private,
    quiet,
    use_all_cores,
)
from cluster.machines.vllm_weights import takes_float32
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import resolve_model
from distill.settings.teachers import TeacherSettings
from distill.teachers.head import token_id
from distill.teachers.pairs import Pair
from distill.teachers.prompt import PairPrompt, PairTokens
from distill.teachers.prompt_scorer import decoded
from distill.teachers.template import Template

ANSWER_TOKENS = 1  # vLLM reads a prompt for its likelihood only on the way to a token


class VllmScorer:
    """Scorer with a vLLM engine in this process.

    Args:
        settings: model, lengths, `tensor_parallel`; `engine_args` go to vLLM as they are.
        template: how the model reads a pair.

    Raises:
        InputError: vLLM is not installed, the model cannot be loaded, or it lacks a token of the template.
        RunError: the engine does not start.
    """

    def __init__(self, settings: TeacherSettings, template: Template) -> None:
        from transformers import AutoTokenizer

        self.settings = settings
        self.template = template
        self.is_likelihood = template.kind == "query_likelihood"
        path = resolve_model(str(settings.model), settings.revision)
        with cache_alone_if_silent(path, settings.revision):
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=settings.revision or "main", trust_remote_code=settings.trust_remote_code
            )
        self.prompt = PairPrompt(template, tokenizer, settings.max_tokens)
        self._tokens = 0
        self.engine = _start(
            settings, path, LIKELIHOOD_ARGS if self.is_likelihood else _classifier(template, tokenizer)
        )

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores; NaN for a pair whose query leaves no room for a passage."""
        scores = np.full(len(pairs), np.nan, np.float32)
        tokens = {number: one for number, one in enumerate(self.prompt.tokens(pairs)) if one is not None}
        # in the order of their beginnings, so that pairs that share one follow each other
        order = sorted(tokens, key=lambda number: tokens[number].ids)
        if order:
            rows = [tokens[number] for number in order]
            self._tokens += sum(len(one.ids) for one in rows)
            scores[order] = self._likelihoods(rows) if self.is_likelihood else self._answers(rows)
        return scores

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair."""
        return decoded(self.prompt, pair)

    def take_tokens(self) -> int:
        """Tokens of pairs since the last call, those that the prefix cache saved among them."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    def close(self) -> None:
        """Ends the engine."""
        self.engine.llm_engine.engine_core.shutdown()

    def _answers(self, rows: list[PairTokens]) -> list[float]:
        from vllm import PoolingParams

        outputs = self.engine.encode(
            [{"prompt_token_ids": one.ids} for one in rows],
            pooling_params=PoolingParams(use_activation=False),
            pooling_task="classify",
            use_tqdm=False,
        )
        return [float(output.outputs.data.float().reshape(-1)[0]) for output in outputs]

    def _likelihoods(self, rows: list[PairTokens]) -> list[float]:
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": one.ids} for one in rows],
            SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0, prompt_logprobs=0),
            use_tqdm=False,
        )
        means = []
        for one, output in zip(rows, outputs, strict=True):
            known = output.prompt_logprobs[len(one.ids) - one.last :]
            means.append(
                float(np.mean([step[token].logprob for step, token in zip(known, one.ids[-one.last :], strict=True)]))
            )
        return means


def _classifier(template: Template, tokenizer: Any) -> dict[str, Any]:
    """vLLM's arguments for a causal model whose score is read off one or two tokens."""
    names = [name for name in (template.false_token, template.true_token) if name is not None]
    tokens = [tokenizer.convert_ids_to_tokens(token_id(tokenizer, name, "true_token")) for name in names]
    method = "from_2_way_softmax" if len(tokens) > 1 else "no_post_processing"
    overrides = {"num_labels": 1, "classifier_from_token": tokens, "method": method, "head_dtype": "float32"}
    return {"runner": "pooling", "convert": "classify", "hf_overrides": overrides}


def _dtype(settings: TeacherSettings, path: str) -> str:
    """What the model computes in; of quantised weights that cannot be had in float32, vLLM chooses."""
    dtype = str(resolve_dtype(settings.dtype, default_device())).removeprefix("torch.")
    return "auto" if (settings.dtype, dtype) == ("auto", "float32") and not takes_float32(path) else dtype


def _start(settings: TeacherSettings, path: str, kind: dict[str, Any]) -> Any:
    quiet()
    keep_sockets_private()
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise InputError(
            f"teacher model '{settings.model}', engine: vLLM cannot be imported ({error}). Install it, or set "
            "`engine: transformers`."
        ) from error
    is_cpu = current_platform.is_cpu()
    if is_cpu:
        use_all_cores()
    arguments: dict[str, Any] = {
        "model": path,
        "revision": settings.revision,
        "tokenizer_revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "load_format": SAFE_FORMATS[0],
        "dtype": _dtype(settings, path),
        "max_model_len": settings.max_tokens + ANSWER_TOKENS,
        "tensor_parallel_size": settings.tensor_parallel,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        **kind,
    }
    if settings.tensor_parallel > 1:
        arguments["distributed_executor_backend"] = "mp"
    elif is_cpu:
        arguments["distributed_executor_backend"] = CPU_EXECUTOR
        arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    log = EngineLog()
    try:
        with cache_alone_if_silent(path, settings.revision):
            return LLM(**arguments | settings.engine_args)
    except (TypeError, OSError, ValueError, json.JSONDecodeError) as error:
        raise InputError(
            f"teacher model '{settings.model}': vLLM cannot load it: {first_sentence(error)} Expected a causal "
            "language model, and engine_args with the names of vLLM's EngineArgs. Or set `engine: transformers`."
        ) from error
    except RuntimeError as error:
        advice = "Too little memory is the usual cause: lower max_tokens or engine_args.gpu_memory_utilization."
        raise RunError(
            f"the vLLM engine did not start with teacher model '{settings.model}': "
            f"{explain(log.cause() or first_sentence(error), advice)}"
        ) from error
