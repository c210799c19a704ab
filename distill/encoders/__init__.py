"""Encoders: loading a model, tokenising texts, embedding them as torch module or as vectors, exporting the result.

In reading order: loading, texts, device; module, encoder; tokens, layout, token_counter; lora, export. How a forward
pass is computed on its device is in `compute`.
"""
