"""Weights from a learner to a sampler: their format, and the transports of vLLM."""
