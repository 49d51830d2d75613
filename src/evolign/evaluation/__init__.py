"""Evaluation: the policy judged on held-out prompts, and the summary of a run."""
