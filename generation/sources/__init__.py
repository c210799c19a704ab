"""Sources: which passages queries are written for, and how many of them.

In reading order: settings; choice (the table CHOSEN), which uses spread, clusters and ids; stage (the table SOURCES),
which uses neighbours; budget (how many of them are used).
"""
