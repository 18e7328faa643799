"""The sections of a config, a file each: a setter, its defaults and its checks stand together."""
