"""Work out how a folder is to be read from its files."""
