"""Converters of ATen's operators to Relax, by families; each family's module registers its own."""
