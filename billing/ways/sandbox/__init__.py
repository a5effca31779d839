"""The sandbox: another company, which plays a wallet app and a card issuer.

It is there where an operator has no account with a real one, so that every way of paying can be
walked through on a fresh machine. No money moves. Its books are its own: the tables here are
written by `company` and `notices` only and known to nobody else, and it knows nothing of orders.
Like a real provider it is asked through `provider`, lives by the clock of whom it is paid for, and
tells what happened by signed notices; its payers stand before `pages`.
"""
