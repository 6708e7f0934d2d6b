"""One module for each other command, each with a `main()`."""
