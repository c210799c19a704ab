"""Files and tables: storage, and sharded Parquet tables whose commit records make every unit end exactly once.

Reading order: storage; plan, table (the protocol), commit, fingerprint; then plan_shards (cuts a table into the shards
of the next stage), shard_reader, row_reader, lineage (read), write_table, columns (write), gc, background_writes.
"""
