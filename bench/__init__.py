"""One script for each claim about speed. Each prints a table and writes JSON."""
