"""The training of a cell.

`train`: the loop. `step`: an optimiser step; `optim`: learning rate, weight decay, AdamW, loss; `ema`: the moving
average; `evaluate`: the forward pass of an evaluation; `distributed`: several processes.

`initial`: the weights at the start. `checks`: what is checked on a model before and while it trains. `activations`,
`timing`, `paired`: what is measured: saved bytes, step times, a step beside an unfused one.

`lock`: one training at a time in a cell's folder; `checkpoint`: what a resumed training needs; `stop`: requests to
stop; `progress`: the line in the terminal; `status`: how far a cell is, from its files.
"""
