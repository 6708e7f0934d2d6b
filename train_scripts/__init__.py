"""
Training and everything around it. `commands` and `stages` hold what people run; the other rooms hold what these share.
A room imports only rooms below it (tests/test_project.py has their order).
"""

import os

# How often a thread looks for new work before it sleeps; read when torch is imported. By default GNU's OpenMP looks for
# so long that a waiting thread takes the core from the one it waits for, where another program wants the core, too: a
# training step then takes ten times as long. With fewer looks a quiet machine loses nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
