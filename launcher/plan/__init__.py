"""`listwise plan` estimates what a run would do, need and cost. It starts no Ray and writes nothing.

Read in this order: corpus (sizes of the inputs), models (sizes of the models), prompts (tokens of prompts), work (units
of each stage), devices (speeds), memory, changes (of a recipe, that save memory), hours, show (the command), calibrate
(measured hours), reality (plan and run).
Filters only remove queries, so every figure from the stage `queries` on is an upper bound.
"""
