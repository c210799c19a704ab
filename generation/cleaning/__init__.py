"""Clean-up: what a language model wrote becomes a query, or the reason why it is none.

In reading order: asked (what is known of the request), clean (the order of the checks); surface, prose, overlap, loops,
language; words.
"""
