"""The subscriber's portal, as far as it is about money and about all of it at once: the first page,
plans, invoices.
"""
