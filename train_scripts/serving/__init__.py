"""A translation server: its endpoints, its streams, and the one thread that computes with the model."""
