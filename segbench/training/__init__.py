"""How a configuration becomes a run: the command line, resuming, loggers and the trainer."""
