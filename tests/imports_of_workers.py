"""
What the process from which workers are forked imports, once. Nothing of it can be freed, and without `gc.freeze` each
worker would look through all of it again and again.
"""

import gc

gc.disable()

import tiny_corpus  # noqa: E402, F401

gc.freeze()
gc.enable()
