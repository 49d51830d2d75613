"""The methods that train by gradients: ESO and its family, PPO, and TRL's, under one run directory.

`objectives.py` and `ppo_objective.py` hold the losses, pure functions; `training.py` is their common course.
"""
