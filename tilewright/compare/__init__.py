"""Runs a model in other runtimes, as entrants of a race against its executable."""
