"""What was sold: operators, offerings, subscribers, and the buckets of units they may burn.

Not here: usage itself (metering) and money owed (billing); nothing here imports either.
Always true: a bucket's remaining = granted - its journal entries, and is never negative; only
`buckets.py` writes buckets and their journal; a sold offering never changes. Which buckets pay for
usage, in which order, is reckoned in `demands.py`.
"""
