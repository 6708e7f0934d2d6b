"""What depends on the machine: cores, precision, processes, and files that are whole or not there."""
