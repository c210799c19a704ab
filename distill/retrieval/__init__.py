"""Retrieval: vectors of passages and queries, search, BM25, fusion, and the candidates that come of them.

In reading order: embeddings, vectors; search, dense, bm25, fusion; candidates.
"""
