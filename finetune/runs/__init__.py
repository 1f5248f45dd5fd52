"""Run folders: create, log, resume, end."""
