"""The seams of RLlib: what samples, what learns, and the groups of both."""

import gc

# A process that trains loads 5,000 modules. Every 700 new objects, Python's default, its garbage collector would look
# for some, and go through all that is there again and again: a seventh of the seconds that a runner takes to start.
gc.set_threshold(20_000)
