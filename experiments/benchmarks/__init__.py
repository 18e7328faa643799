"""Measurements, each a command: python experiments/benchmarks/bench_NAME.py --help."""
