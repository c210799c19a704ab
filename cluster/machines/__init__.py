"""The machines that a run is on: the Ray session, folders of one's own or shared by a machine, memory, the allocator.

In reading order: session, head; private_folder, shared_folder; memory, malloc, garbage_collector.
"""
