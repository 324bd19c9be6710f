"""What a training leaves behind, and what is made of rows alone. No torch.

`row`: row.json; `consistency`: what the parts of a row say of each other. Beside it `epochs`: epochs.csv and steps.csv;
`predictions` and `tokens`: predictions.npz and tokens.npz, in the files of `arrays`.

`summary`: one line per model and strategy; `recipes`: rows by their recipes; `statistics`: the tests and intervals.
`tables`: the summary, and any other table, as Markdown, LaTeX and CSV.
"""
