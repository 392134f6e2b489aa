"""Scans with known answers, one file a data set, and their registry."""
