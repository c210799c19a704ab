"""Activations: what a forward pass keeps for its backward pass, what that costs, and the memory it lies in.

In reading order: budget, recompute, arena. Nothing else of `distill` is imported here.
"""
