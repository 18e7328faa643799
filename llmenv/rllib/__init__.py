"""The seams of RLlib: what samples, what learns, and the groups of both."""
