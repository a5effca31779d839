"""Signing up and in: what django-allauth asks of us, and whose account a user sees.

The forms, codes, second factors and sessions are allauth's. Here are the user's phone number (which
allauth leaves to its adapter), the way of its text messages, and `access`, which ties a user to a
subscriber of one operator. What a subscriber holds is not here.
"""
