"""The sections of `gpu_check.py`: what they run on, and what they ask of it."""
