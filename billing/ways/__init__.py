"""Ways to pay, behind one small interface (`provider.py`); each is a module of its own.

Who pays is never asked here, and nothing is granted here: a provider says what became of an
attempt, billing/orders says what follows from it.
"""
