"""LSTM, GRU and RNN: a loop over steps, which holds the recurrent product and the gates.

``cell`` describes the operator; ``elements``, ``gates`` and ``program`` write its loops; ``space`` is its design space.
"""

from tilewright.ops.recurrent.cell import Activation, Cell, find_block
from tilewright.ops.recurrent.expression import recurrent
from tilewright.ops.recurrent.space import RecurrentSpace, RecurrentTemplate

__all__ = ["Activation", "Cell", "RecurrentSpace", "RecurrentTemplate", "find_block", "recurrent"]
