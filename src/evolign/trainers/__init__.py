"""The methods that train by gradients: ESO and its family, PPO, and TRL's, under one run directory.

`losses.py` and `ppo_losses.py` hold the losses, which are pure functions; `course.py` is the course of a run.
"""
