"""What leaves as files for other systems: the phone-bill charge file, invoices, the ledger.

Every file is comma-separated values as RFC 4180 has them (CRLF, quotes doubled, as many fields in
every line), UTF-8 without a byte order mark, and streamed: memory does not grow with it.
"""
