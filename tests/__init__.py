"""A package, so that `tests.support` is found here and not in another folder named `tests` on the path."""
