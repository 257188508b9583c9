"""Pure functions on tensors: the mathematics of the algorithms, without state and without Stable-Baselines3."""
