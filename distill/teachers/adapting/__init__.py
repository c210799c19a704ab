"""A teacher that is made in the run: a cross-encoder is fine-tuned on the corpus, and kept if it ranks sources better.

In reading order: data (lists to learn from, queries to judge by), job, model, trainer (one rank), held_out, judge,
stage (the driver).
"""
