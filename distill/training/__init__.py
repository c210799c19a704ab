"""Training: the global batch over all ranks, its loss and gradient, and the loop around it.

In reading order: job, stage, on_ray; trainer; list_arrays, topics, batches; step, gather; deepspeed_engine,
process_group; dev_evaluation, checkpoints, stop, mailbox, trackers; step_time.
"""
