"""The report of an experiment: one HTML file that stands alone, Markdown for a README, LaTeX for a paper,
and the paper's tables as CSV.

Its numbers are those of `famba judge` and `famba figures`. Identical rows give identical files.
"""

from __future__ import annotations
