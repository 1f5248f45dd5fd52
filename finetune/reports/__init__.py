"""Files that a run leaves for the user: scores, tables and figures."""
