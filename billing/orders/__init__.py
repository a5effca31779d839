"""Orders: an amount that buys one thing, once.

`keeping` keeps them and their states, `buying` says what they cost and grants, `paying` brings
ways to pay and orders together. Always true: what an order buys is granted in the transaction that
marks it paid, and never twice.
"""
