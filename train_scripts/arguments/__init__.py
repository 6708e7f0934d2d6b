"""Every command with its flags, YAML files and presets, their ranges, help and completion, and how a command ends."""
