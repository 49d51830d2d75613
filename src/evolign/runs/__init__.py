"""Run directories: their files, costs, provenance, and progress while a run is working."""
