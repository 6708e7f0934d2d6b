"""From a data set to batches: samples, augmentation, streaming, samplers, cached features."""
