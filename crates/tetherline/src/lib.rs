//! RLHF with the drift under control: the loops, recipes, run directories and checkpoints.
