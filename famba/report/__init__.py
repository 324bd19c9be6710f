"""The report of an experiment: one HTML file that stands alone, Markdown for a README, LaTeX for a paper,
and the paper's tables as CSV.

It shows what `famba judge`, `famba figures` and `famba audit` wrote, and judges and draws nothing itself. Identical
rows give identical files.

`page`: reads everything and writes the files, with templates/. `sections`: the page's tables; `paper_tables`,
`recipes`, `cost`: further ones. `evidence`: the verdicts. `provenance`: where the rows were made. `prose`: text from
Markdown files. `judged`: what `famba judge` wrote; `embedded`: the figures' files.
"""
