"""Observation of a stage while it runs and afterwards. No result depends on anything here.

Reading order: estimate (time left, slow workers); heartbeat, phrases (a driver's report, in storage and as text);
progress, metrics (terminal, Prometheus); monitor, one_process_stage (write the reports); status (reads them).
"""
