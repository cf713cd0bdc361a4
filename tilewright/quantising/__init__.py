"""Quantises models with ONNX Runtime's quantiser: checks the samples before, and compares the outputs afterwards."""

from tilewright.quantising.accuracy import OutputAccuracy
from tilewright.quantising.plan import CALIBRATIONS, QuantisingPlan
from tilewright.quantising.quantiser import Quantised, quantise

__all__ = ["CALIBRATIONS", "OutputAccuracy", "Quantised", "QuantisingPlan", "quantise"]
