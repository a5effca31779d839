"""Keys that subscribers present to the carrier's gateways.

`keeping` makes, limits, rotates and revokes them, `looking` tells a gateway whose a presented key
is, `guessing` ends the patience with keys that are none.
"""
