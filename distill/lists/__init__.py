"""Lists: from teachers' scores to training lists, or from a file of lists that were scored elsewhere.

In reading order: build (pure functions), stage, scored_file.
"""
