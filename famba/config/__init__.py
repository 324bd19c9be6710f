"""What is trained: the grid of an experiment, the settings of a cell, and the checks of both.

No torch here: Snakemake reads the configuration at every start.
"""

from famba.config.experiment import Cell, Experiment, Model
from famba.config.settings import ARCHITECTURES, Architecture, Fusion, Recipe

__all__ = ["ARCHITECTURES", "Architecture", "Cell", "Experiment", "Fusion", "Model", "Recipe"]
