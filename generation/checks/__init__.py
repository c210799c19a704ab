"""The checks of language models before the first stage.

`files.py` reads a model's files, `language_model.py` says whether it can write or judge, and `stage.py` does that on a
worker.
"""
