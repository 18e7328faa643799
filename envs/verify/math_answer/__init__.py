"""Mathematical answers: `tokens` (and `units`) to `reader` (a small `tree`) to `equivalence` (is it the same?).

The modules import sympy and run in a worker process: outside of it, use `envs.verify.verifiers.verify_math`.
"""
