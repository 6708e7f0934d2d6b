"""Everything that depends on the machine: cores, precision, worker processes and atomic file writes."""
