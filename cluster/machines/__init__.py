"""The machines a run uses: the Ray session, folders for temporary files, and memory.

Reading order: session, ray_start, agent_stand_in, ray_errors, head (Ray); private_folder, shared_folder, own_folder
(folders); memory, malloc, garbage_collector.
"""
