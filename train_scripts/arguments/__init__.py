"""All commands with their flags, allowed values, YAML files, presets, help and completion, and how commands exit."""
