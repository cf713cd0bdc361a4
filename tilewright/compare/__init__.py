"""Other runtimes for the same model, as entrants of a race."""
