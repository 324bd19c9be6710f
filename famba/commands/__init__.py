"""One file per command, by its name: `famba train` is train.py. `famba.cli` imports the one that is called.

No commands are `options`, which several commands share, and `schema`: `python -m famba.commands.schema` writes the
published JSON schemas.
"""
