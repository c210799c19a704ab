"""How a forward pass is computed on the device where it runs. `choose` is the one door; the others are its choices.

In reading order: choose, trial; packed_attention (GPUs), cpu_attention, cpu_linears.
"""
