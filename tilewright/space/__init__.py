"""What design spaces are made of: knobs, configs, moves, loop nests, and the contract of a template. No operator."""
