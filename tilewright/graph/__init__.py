"""From a Network to its tasks: layouts and algorithms are chosen, operators are fused, weights are packed."""
