"""What serves any function: MetaSchedule's generated programs, a plain parallel one, and the untuned one.

``trace`` and ``generation`` get programs of MetaSchedule's generator, ``simple`` has the plain one, and ``space`` joins
them to a design space. ``stored_trace`` finds the config of a trace that a database of MetaSchedule's holds.
"""

from tilewright.ops.generic.space import AutoSpace, AutoTemplate

__all__ = ["AutoSpace", "AutoTemplate"]
