"""Teachers: accurate, slow models that score every candidate of every query.

In reading order: base (the protocol), bm25, bi_encoder, cross_encoder; scores (the stage).
"""
