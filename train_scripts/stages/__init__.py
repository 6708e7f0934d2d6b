"""One module for each training stage, each with a `main()`."""
