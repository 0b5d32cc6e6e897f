"""From a recipe to a run folder: the one loop, head solvers, full-state checkpoints."""
