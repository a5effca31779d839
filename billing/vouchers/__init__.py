"""Vouchers (充值卡): made once, sold elsewhere, redeemed once.

codes.py      what a code looks like, how it is kept, and how it is sealed until it is shown
keeping.py    batches and their vouchers from making to expiry; only writer of both
guessing.py   who has tried too many codes that are none
redeeming.py  a code becomes money in the wallet, a booster or a gift
"""
