"""Is an answer right? Verifiers, what reads mathematics, and the worker processes in which it runs."""
