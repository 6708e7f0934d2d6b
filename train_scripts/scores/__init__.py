"""BLEU, chrF and ROUGE-L, and the module of `evaluate` that computes them."""
