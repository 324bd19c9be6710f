"""What a training leaves behind: `row`, `epochs`, `tokens`, `predictions`; and what is made of rows: `summary` and
`tables`, one line per model and strategy, with `statistics` beneath. No torch.
"""
