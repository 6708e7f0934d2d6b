"""Corpora as people have them (published ones, tables, subtitles, ELAN files): read, checked, saved as a data set."""
