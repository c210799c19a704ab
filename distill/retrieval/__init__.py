"""Retrieval: vectors of passages and queries, their search, BM25, rank fusion, and the candidates of every query.

In reading order: embeddings; search (exact), approximate, dense; tokenizers, bm25; fusion; candidates.
"""
