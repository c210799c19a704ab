"""Readers of a corpus, one file per format; each turns its files into records with an id, a title and a text.

In reading order: base (what a reader is), open_reader (the choice among them); fields, files; then jsonl, delimited,
parquet, hf, pydocs.
"""
