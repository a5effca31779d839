"""The subscriber's portal, as far as it is about what was used: charts, tables, receipts."""
