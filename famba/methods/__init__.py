"""Methods of token reduction: what becomes of the tokens of a layer.

`interface`: what a method sees and returns. `famba_v`: the paper's, with ToMe's order and weights. `random_controls`:
the same number of tokens, by chance. `rmeeto`, `hsa`, `utr`, `mtr`: rivals. `names`: their names in an experiment.
`draws`: the random numbers. `contract`: what every method must keep, on `made_up` tokens.
"""

from famba.methods.interface import Method, Seen, compared, drop, merge, most_similar, rows_at
from famba.ops.merging import Reduction

__all__ = ["Method", "Reduction", "Seen", "compared", "drop", "merge", "most_similar", "rows_at"]
