"""What is trained: the grid of an experiment, the settings of a cell, and what both must fulfil.

`experiment`: an experiment file and its cells. `settings`: architecture, fusion and recipe; `presets`: named recipes;
`schedules`: a schedule written by hand. `protocol`: what the published protocols ask; `trainable`: what any training
has to fulfil. `datasets`: how large the data sets are. `yaml_file` reads a file, `validation` says in one line what is
wrong.

No torch here: Snakemake reads the configuration at every start.
"""

from famba.config.experiment import Cell, Experiment, Model
from famba.config.settings import ARCHITECTURES, Architecture, Fusion, Recipe

__all__ = ["ARCHITECTURES", "Architecture", "Cell", "Experiment", "Fusion", "Model", "Recipe"]
