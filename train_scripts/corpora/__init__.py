"""What people have: published corpora, tables, subtitles, ELAN files; read, checked, and written as a data set."""
