"""Reinforcement learning of language models inside Gymnasium text environments, on RLlib.

Importing the package loads nothing heavy: import what you need from its modules.
"""
