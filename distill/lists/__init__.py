"""Training lists: made from the teachers' scores of a run, or from a file of lists that were scored elsewhere.

In reading order: ensemble, learn, build (pure functions); ensemble_reader, ensemble_stage, stage (the run's scores);
scored_file.
"""
