"""Code that the algorithms share."""
