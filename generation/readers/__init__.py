"""Readers of a corpus: one file for each format. A reader turns its files into records with an id, a title and a text.

In reading order: base (the interface), open_reader (the choice of a reader); fields, files; then jsonl, delimited,
parquet, hf, pydocs.
"""
