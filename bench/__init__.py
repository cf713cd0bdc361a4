"""One script for each claim about speed; each prints a table and writes JSON."""
