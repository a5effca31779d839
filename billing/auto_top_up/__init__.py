"""Wallets that are filled by themselves: a wallet falls below what its subscriber said, and a
top-up is ordered and paid by the method that it saved.

`agreements` keeps what was agreed to, `runs` what follows from each fall, `charging` pays. Always
true: a fall makes one order at most, and no day and no month takes more than was agreed to.
"""
