"""What every training and evaluation shares: trainers, checkpoints, results that are kept."""
