"""A signing language of our own, and the figure that signs it."""
