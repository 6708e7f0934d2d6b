"""The commands that are not training stages, one module each, with a `main()`."""
