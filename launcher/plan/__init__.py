"""`listwise plan`: what a run would do, need and cost, without doing it. No Ray is started, nothing is written.

    corpus.py      a look at the corpus, with the student's own tokenizer
    models.py      how large the recipe's models are, from their files, their configuration, or their name
    prompts.py     tokens of the generator's prompts, and of them what prefixes share
    work.py        every stage's units, shards, tokens, disk
    devices.py     what a GPU or this machine's CPU can do
    memory.py      what each worker needs, and the smallest change that fits where it does not
    hours.py       device hours with their range, and money
    calibrate.py   the same from one shard of each stage that was really run
    show.py        all of that on a terminal

Filters only ever remove queries, so everything from `queries` on is an upper bound.
"""
