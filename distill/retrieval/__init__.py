"""Retrieval: vectors of passages and queries, exact search, BM25, rank fusion, and the candidates of every query.

In reading order: embeddings, vectors; search, dense, bm25, fusion; candidates.
"""
