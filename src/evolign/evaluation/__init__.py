"""Evaluation: the figures of a policy on held-out prompts, and the summary of a run."""
