"""Arguments of algorithms and policies: checks before anything is built, and what follows when they change."""
