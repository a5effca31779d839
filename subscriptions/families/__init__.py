"""Families and organisations: whom a main line shares its units with. What a charge makes of them
is in subscriptions/pools.py.
"""
