"""Outgoing webhooks: what happens here, told to the operator's own systems.

`endpoints` keeps who hears of what and the secrets that sign; `queue` what is to be sent and what
became of it; `sending` calls, many at once, in order for each subscriber; `calling` makes one call
and goes nowhere it should not (`addresses`); `signing` is Standard Webhooks.
"""
