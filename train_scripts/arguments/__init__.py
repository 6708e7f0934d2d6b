"""Flags, YAML files and presets, their ranges, and how a command ends."""
