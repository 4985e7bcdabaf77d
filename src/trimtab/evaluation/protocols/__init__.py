"""Protocols: one file each, with its settings, what it records and how it is summed up."""
