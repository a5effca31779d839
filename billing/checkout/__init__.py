"""The page on which an order is paid, and where a payer comes back to.

Who has the address of an attempt's page may pay it and see what is bought, and nothing else of its
subscriber. Nothing is granted here: a provider is asked, and billing/orders does what follows.
"""
