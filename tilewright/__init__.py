"""Tilewright tunes neural networks for the machine in front of it."""
