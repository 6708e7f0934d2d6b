"""The commands of FLaLLM: one module for each, with a `main()`, and the parts they share."""

import os

# How often a thread looks for new work before it sleeps; read when torch is imported. By default GNU's OpenMP looks for
# so long that a waiting thread takes the core from the one it waits for, where another program wants the core, too: a
# training step then takes ten times as long. With fewer looks a quiet machine loses nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
