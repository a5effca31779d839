"""The subscriber's portal, as far as it is about what was sold: its doors, and the tariff page.

A page is a door: it asks the clock, reads through the room's own functions and renders. Whose data
it shows comes from the session alone, never from an address: subscriptions/portal/doors.py.
"""
