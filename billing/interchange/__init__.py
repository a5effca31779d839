"""Subscribers, coupons and vouchers as files: in (CSV, XLSX) and out (CSV).

columns.py  what the columns of each are called, in English and Chinese
reading.py  a file that somebody sent, row by row
kinds.py    what a row of each says, and what becomes of it
imports.py  jobs that read, try out and apply a file; only writer of them
exports.py  jobs that write one; only writer of them
"""
