"""What is seen of a stage while it runs and afterwards. Nothing of the work depends on it.

heartbeat, words     the last word of a stage's driver, in storage; the same for people
estimate             the time left with its spread, and who is slow
monitor, piece       what makes it: of a stage over shards, of one that is done in one piece
progress, metrics    shows it on the terminal, and to Prometheus
log, aside           one line an event; the thread that writes what nobody waits for
status               where a run stands, from its files alone, with no cluster alive
"""
