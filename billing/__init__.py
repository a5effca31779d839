"""What is owed: tokens become money here, once, and nowhere else.

Not here: counting tokens. The hot path never imports this room, so no change here can stop it.
Always true: money is decimal and rounded once, in `rating.py`.
"""
