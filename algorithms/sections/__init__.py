"""The sections of a config, a file each: a setter, its defaults and what must hold between them."""
