"""Speed and precision of training: compilation, autocast, memory, optimizers, and recordings for a GPU."""
