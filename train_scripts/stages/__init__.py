"""The training stages, one module each, with a `main()`."""
