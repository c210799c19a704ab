"""Encoders: loading a model, tokenising texts, embedding them in training or as vectors, exporting the trained model.

In reading order: loading, texts, device; module, by_length, read_texts, encoder; tokens, layout, token_counter; lora,
export. The folder `compute` decides how a forward pass is computed on its device.
"""
