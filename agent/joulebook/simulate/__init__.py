"""The simulator: sensors whose true joules are known (docs/reference/simulator.md).

For tests, demos and machines without hardware. ``truth`` is the whole of its Python interface
that a user needs; the rest is ``joulebook simulate``.
"""

from joulebook.simulate.truth import truth

__all__ = ["truth"]
