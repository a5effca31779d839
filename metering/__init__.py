"""What was used: usage records from gateways, each stored once and charged once.

Not here: what a subscriber bought (subscriptions) and what it costs (billing).
Always true: the units of a subscriber's records equal what its buckets were drawn for usage;
a 2xx leaves only after the commit that holds both.
"""
