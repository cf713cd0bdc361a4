"""What an executable is and how it runs: its files, its plan of calls, its loader. Nothing of the tuner is imported."""
