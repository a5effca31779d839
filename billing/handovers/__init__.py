"""A number goes to another subscriber or back to nobody; a subscriber becomes another.

planning.py   what would move, and what it is worth
keeping.py    asking, deciding, doing; only writer of Handover and RecyclingPolicy

Who had a number when is in its bindings: usage before the instant stays with its owner of the time,
and so do invoices, payments and debts.
"""
