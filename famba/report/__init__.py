"""The report of an experiment: one HTML file that stands alone, Markdown for a README, LaTeX for a paper,
and the paper's tables as CSV.

Its numbers are those of `famba judge` and `famba figures`. Identical rows give identical files.

`page`: reads everything and writes the files, with templates/. `sections`: the page's tables; `paper_tables`,
`recipes`, `cost`: further ones. `evidence`: the verdicts. `provenance`: where the rows were made. `prose`: text from
Markdown files. `figures`: the page's charts, made of `charts` and `drawing`; `pictures`: figures as `famba figures`
drew them.
"""
