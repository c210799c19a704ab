"""The machine room: Ray session, sharded tables with atomic commits, the worker pool and progress."""
