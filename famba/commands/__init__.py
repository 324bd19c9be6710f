"""One file per command, by its name: `famba train` is train.py. `famba.cli` imports the one that is called.

`options`: options that several commands have. `schema` is no command of `famba`: `python -m famba.commands.schema`
writes the published JSON schemas.
"""
