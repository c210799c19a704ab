"""Runs on a Ray cluster through its Jobs API: `submit` starts one, `follow` watches it, `client` asks the cluster."""
