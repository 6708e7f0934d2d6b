"""
Training and everything around it. `commands` and `stages` hold what people run; the other rooms hold what these share.
A room imports only rooms below it (tests/test_project.py lists their order).
"""

import os

# How often an idle thread polls for new work before it sleeps; read when torch is imported. By default GNU's OpenMP
# polls for so long that, when another program wants the core too, a waiting thread takes the core from the thread it
# waits for: a training step then takes ten times as long. Polling less costs nothing on an otherwise idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
