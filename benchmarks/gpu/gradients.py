"""Whether the arithmetic is right: gradients of packed and of padded passes, on the device and on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.material import Texts
from benchmarks.gpu.parts import Findings, Machine
from benchmarks.gpu.shapes import save_encoder, shapes
from distill.encoders.compute.choose import choose_layout
from distill.encoders.layout import Layout, PackedError, pad_token
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.encoders.reading import Reading
from distill.encoders.tokens import TokenFile, write_tokens
from distill.settings.encoders import EncoderSettings

TEXTS = 8
TOKENS, TINY_TOKENS = 256, 48
SAME_FORMULA = 1e-3  # relative difference of two gradients in float32; sums in another order differ by less
BFLOAT16 = 0.1  # relative difference of a gradient in bfloat16 from that in float32: 8 bits, many layers


def gradients(machine: Machine, findings: Findings) -> None:
    """For each shape: float32 on the device and on the CPU; bfloat16 padded and packed against float32."""
    for name in shapes(machine.dry):
        _shape(name, machine, findings)


def _shape(name: str, machine: Machine, findings: Findings) -> None:
    longest = TINY_TOKENS if machine.dry else TOKENS
    shape = shapes(machine.dry)[name]
    model = save_encoder(shape, machine.folder / name, longest)
    tokens, pad_id = _tokens(model, shape.words, longest, machine.folder / f"{name}-tokens")
    rows = np.arange(TEXTS)

    def compute(device: str, dtype: torch.dtype, packed: bool) -> torch.Tensor | None:
        loaded = load_model(EncoderSettings(model=model, max_passage_tokens=longest), device)
        module = EncoderModule(loaded, device, dtype)
        layout = Layout(pad_id)
        if packed:
            try:
                layout = choose_layout(module, tokens, pad_id, True)
            except PackedError as error:
                findings.check(f"{name} {_word(dtype)}: sequences can be packed ({error})", False)
                return None
        return gradient(module, layout, tokens, rows)

    exact = compute("cpu", torch.float32, packed=False)
    assert exact is not None
    cases = [
        ("padded", torch.float32, False, SAME_FORMULA),
        ("padded", torch.bfloat16, False, BFLOAT16),
        ("packed", torch.bfloat16, True, BFLOAT16),
    ]
    if machine.device == "cpu":  # flash attention has no float32; the loop of a CPU has
        cases.append(("packed", torch.float32, True, SAME_FORMULA))
    for layout, dtype, packed, most in cases:
        found = compute(machine.device, dtype, packed)
        if found is not None:
            apart = float((found - exact).norm() / exact.norm())
            findings.figure(f"{name}_{layout}_{_word(dtype)}_apart", apart)
            findings.check(f"{name}: the gradient of {layout} {_word(dtype)} is the CPU's in float32", apart < most)


def gradient(module: EncoderModule, layout: Layout, tokens: TokenFile, rows: np.ndarray) -> torch.Tensor:
    """All weights' gradients of a fixed sum of embeddings, end to end, float32 on the CPU."""
    embeddings = module(**layout.features(tokens, rows))
    of_sum = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
    (embeddings * of_sum.to(embeddings.device)).sum().backward()
    given = [weight.grad.float().cpu().flatten() for weight in module.parameters() if weight.grad is not None]
    return torch.cat(given)


def _tokens(model: str, words: int, longest: int, file: Path) -> tuple[TokenFile, int]:
    """Token file of a few texts of 3 tokens to the longest, and the token id of padding."""
    loaded = load_model(EncoderSettings(model=model, max_passage_tokens=longest), "cpu")
    drawn = Texts(words, 1)
    texts = [drawn.text(int(length), 0) for length in np.linspace(1, longest - 2, TEXTS)]
    write_tokens(file, texts, Reading(loaded, "document", longest).token_ids)
    return TokenFile(file), pad_token(loaded)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
