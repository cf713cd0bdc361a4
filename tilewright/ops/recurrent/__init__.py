"""LSTM, GRU and RNN: a loop over steps, which holds the recurrent product and the gates.

``cell`` says what is computed, ``elements``, ``gates`` and ``program`` write it as loops, and ``space`` arranges these.
"""

from tilewright.ops.recurrent.cell import Activation, Cell, find_block
from tilewright.ops.recurrent.expression import recurrent
from tilewright.ops.recurrent.space import RecurrentSpace, RecurrentTemplate

__all__ = ["Activation", "Cell", "RecurrentSpace", "RecurrentTemplate", "find_block", "recurrent"]
