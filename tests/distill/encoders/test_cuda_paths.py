"""What can be seen of the paths for GPUs without one: shapes and types by meta tensors, and what torch is asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distill.activations import budget
from distill.activations.activations import Activations
from distill.encoders.compute import packed_attention
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.settings.encoders import EncoderSettings
from distill.training.process_group import rank_device
from distill.training.step import Stepper
from launcher.doctor.collectives import Rendezvous, open_store, time_all_reduce

WIDTH = 64


class Layer(torch.nn.Module):
    is_causal = False


@pytest.fixture
def attend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """Packed attention of 96 tokens in three sequences by the kernel of GPUs, on tensors without memory."""
    monkeypatch.setattr(packed_attention, "_loop", packed_attention._flash)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # torch knows no autocast of "meta"

    def attend(heads: int, key_heads: int, causal: bool, window: int | None) -> torch.Tensor:
        layer = Layer()
        layer.is_causal = causal
        query = torch.empty(1, heads, 96, WIDTH, device="meta", dtype=torch.bfloat16)
        key, value = (torch.empty(1, key_heads, 96, WIDTH, device="meta", dtype=torch.bfloat16) for _ in "kv")
        boundaries = torch.empty(4, device="meta", dtype=torch.int32)
        output, none = packed_attention.packed_attention(
            layer, query, key, value, None, sliding_window=window, cu_seq_lens_q=boundaries, max_length_q=40
        )
        assert none is None
        return output

    return attend


@pytest.mark.parametrize(("heads", "key_heads"), [(12, 12), (16, 8)])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 128), (True, 128)])
def test_packed_attention_of_a_gpu_gives_what_transformers_expects(attend, heads, key_heads, causal, window) -> None:
    output = attend(heads, key_heads, causal, window)
    assert (output.shape, output.dtype, output.device.type) == ((1, 96, heads, WIDTH), torch.bfloat16, "meta")


@pytest.mark.parametrize(
    ("causal", "window", "expected"),
    [(False, None, (-1, -1)), (True, None, (-1, 0)), (False, 128, (127, 127)), (True, 128, (127, 0))],
)
@pytest.mark.parametrize("version", ["2.11", "2.13"])
def test_the_kernel_is_asked_for_the_same_window_in_every_version_of_torch(
    attend: Callable[..., torch.Tensor],
    causal: bool,
    window: int | None,
    expected: tuple[int, int],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch 2.11 has no `enable_gqa`: its kernel takes fewer heads of keys as they are."""
    asked: list[dict[str, Any]] = []

    def kernel_2_11(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        asked.append({"window": window_size, "heads": (q.shape[1], k.shape[1]), "longest": (max_q, max_k)})
        return torch.empty_like(q)

    def kernel_2_13(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, enable_gqa=False, window_size=(-1, -1)):
        assert enable_gqa == (q.shape[1] != k.shape[1])
        return kernel_2_11(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size)

    kernel = kernel_2_11 if version == "2.11" else kernel_2_13
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    for heads, key_heads in ((16, 8), (12, 12)):
        assert attend(heads, key_heads, causal, window).shape == (1, 96, heads, WIDTH)
    assert [one["window"] for one in asked] == [expected] * 2
    assert [one["heads"] for one in asked] == [(16, 8), (12, 12)]
    assert [one["longest"] for one in asked] == [(40, 40)] * 2


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "packs"),
    [
        ("cuda", torch.bfloat16, (8, 0), True),
        ("cuda:1", torch.bfloat16, (9, 0), True),
        ("cuda", torch.bfloat16, (7, 5), False),  # T4: no flash attention
        ("cuda", torch.float32, (9, 0), False),
        ("cpu", torch.bfloat16, (9, 0), False),
    ],
)
def test_sequences_are_packed_where_there_is_a_kernel(device, dtype, capability, packs, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert packed_attention.has_kernel(SimpleNamespace(device=device, dtype=dtype)) is packs


def test_padded_float32_with_torchs_attention_is_encoded_twice_and_gives_the_same_gradient(tiny_encoder: str) -> None:
    """As on a T4 or a V100. A first run is without a graph, and nothing of torch's own attention may be kept of it."""
    module = EncoderModule(load_model(EncoderSettings(model=tiny_encoder), "cpu"), "cpu", torch.float32)
    module.attention = "sdpa"
    ids = torch.randint(5, 90, (6, 24), generator=torch.Generator().manual_seed(0))
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    micro = SimpleNamespace(features=features, computed=ids.numel(), longest=24)
    found = []
    for most in (0, 1 << 40):
        activations = Activations(module, module, most)
        keep = activations.plan([micro, micro])
        assert (keep.graphs_from, keep.output_bytes) == ((2, 0) if most == 0 else (0, 0))
        for _ in range(2):
            activations.first(micro)
        module.zero_grad()
        for _ in range(2):
            (activations.second(micro) * torch.linspace(-1, 1, 32)).sum().backward()
        given = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
        found.append({name: gradient.clone() for name, gradient in given.items()})
    assert sum(float(gradient.abs().max()) > 1e-4 for gradient in found[0].values()) > 10
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_tensors_of_a_step_are_pinned_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    layout = SimpleNamespace(features=lambda *_: {"input_ids": torch.ones(2, 3), "max_length_q": 3}, size=len)
    tokens = SimpleNamespace(lengths=np.array([3, 2]))
    for device, expected in (("cpu", 0), ("cuda", 1)):
        engine = SimpleNamespace(device=torch.device(device))
        stepper = Stepper(engine, tokens, tokens, None, None, layout)
        micro = stepper._micro_batch(tokens, np.arange(2), slice(0, 2), is_query=True)
        assert (len(pinned), micro.features["max_length_q"]) == (expected, 3)


def test_a_rank_without_the_gpu_that_nccl_needs_says_so_and_raises_nothing() -> None:
    store, port = open_store("127.0.0.1")
    times = time_all_reduce(Rendezvous("127.0.0.1", port, 1, "nccl", 5.0), 0)
    assert times.error and "127.0.0.1" in times.interface
    del store


@pytest.mark.parametrize(("visible", "local_rank", "device"), [(0, "3", "cpu"), (1, "3", "cuda:0"), (4, "3", "cuda:3")])
def test_a_rank_takes_a_gpu_that_it_sees(visible, local_rank, device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CUDA_VISIBLE_DEVICES says (nothing, "-1", one of several), torch counts what is left."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert rank_device() == device


def test_activations_may_take_a_part_of_what_is_free_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the allocator has reserved and not given out is free, too."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 12 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * 2**30)
    module = torch.nn.Linear(2**14, 2**14, bias=False, device="meta")
    free = 70 * 2**30 - 16 * 2**28
    assert budget.activation_bytes(None, module, "cuda:0") == pytest.approx(0.6 * free, rel=1e-9)
    assert budget.activation_bytes(100, module, "cuda:0") == 100 * 2**20
    assert budget.room_bytes(None, module, "cuda:0") == pytest.approx(0.9 * free, rel=1e-9)
    assert budget.room_bytes(100, module, "cuda:0") is None and budget.room_bytes(None, module, "cpu") is None
