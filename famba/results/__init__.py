"""What a training leaves behind, and what is made of rows alone. No torch.

`row`: row.json; `consistency`: what the parts of a row say of each other. Beside it `epochs`: epochs.csv and steps.csv;
`predictions` and `tokens`: predictions.npz and tokens.npz, in the files of `arrays`.

`summary`: one line per model and strategy; `recipes`: rows by their recipes; `statistics`: the tests and intervals.
`summary_table`: summary.csv and the summary for people; `tables`: any table as Markdown, LaTeX, CSV and plain text;
`anchors`: where the report's page shows a line or a row.
"""
