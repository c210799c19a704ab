"""Recipe sections of distillation, one file a section.

In reading order: encoders, retrieval, teachers, adapting, ensemble, lists, training, evaluation.
"""
