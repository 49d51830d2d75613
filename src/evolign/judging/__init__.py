"""Win rates: two sets of completions, compared pair by pair by a judge who sees both orders.

The public call is `evolign.judge` (`contest.py`). A judge is an OpenAI-compatible endpoint, a local model or
a function.
"""
