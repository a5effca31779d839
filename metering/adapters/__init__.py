"""What other senders' usage looks like, each turned into the native record. One file a sender.

An adapter names, in msgspec structs, the few fields of an event that it reads; nothing else of the
body becomes an object, so prompts end here. Its `usage_of` is a pure function from one such event
(and what the request said besides) to a native record with inclusive totals; it raises Unfit where
the event cannot be charged. What is kept of such an event in the quarantine are the named fields.

Not here: HTTP and how each sender wants to be answered (metering/api/events.py), the charge.
"""
