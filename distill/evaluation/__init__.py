"""Evaluation: how well an encoder finds judged passages, and whether the student does it better than its base.

In reading order: judged, metrics, evaluate; statistics, comparison; encode_on_workers, stage.
"""
