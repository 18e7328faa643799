"""Scripts: each is run from the root of the repository, `python experiments/NAME.py --help`, or as `llmenv`."""
