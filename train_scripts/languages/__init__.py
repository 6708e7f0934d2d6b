"""Sign languages and spoken languages, by tag and by name."""
