"""Engines: gradients to a step."""
