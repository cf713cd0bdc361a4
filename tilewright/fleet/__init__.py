"""Measuring on many machines, which Ray connects. Only this package imports Ray, and only where a fleet is used."""
