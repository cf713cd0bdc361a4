"""Judges whether a program computes what its model computes, with a reference, inputs and a rule."""
