"""Reading and writing files; the only place where encodings and other frames appear."""
