"""How fast and how exactly training computes: compilation, precision, memory, optimisers, recordings for a GPU."""
