"""Mathematical answers: `tokens` (and `units`) to `operands` to `reader` (a `tree`) to `values` to `equivalence`.

The modules import sympy and run in a worker process: outside of it, use `envs.verify.verifiers.verify_math`.
"""
