"""The report of an experiment: one HTML file that stands alone, Markdown for a README, LaTeX for a paper, and
the paper's tables as CSV.

It shows what `famba judge`, `famba figures` and `famba audit` wrote, and judges and draws nothing itself. Identical
rows give identical files.
"""
