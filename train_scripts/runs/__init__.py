"""Code that trainings and evaluations share: trainers, checkpoints, results that are kept."""
