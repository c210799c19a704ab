"""Losses over scored lists, in float32, and their gradients for a whole global batch.

In reading order: listwise and pairwise (one list each), contrastive (InfoNCE over the batch), batch (the whole loss).
Letters in names and shapes: B queries of a block, L slots of a list, U unique passages of the global batch, D or d
dimensions of an embedding, Q queries of the global batch.
"""
