"""Files and tables: storage, and sharded Parquet tables whose commit records make every unit end exactly once.

In reading order: storage; plan, fingerprint, table; write_table, shard_reader, row_reader; gc, background_writes.
"""
