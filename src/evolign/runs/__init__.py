"""Run directories: what a run writes, counts, records of itself and shows while it runs."""
