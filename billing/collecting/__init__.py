"""Collecting by itself what falls due, from who has agreed to it.

`policies` say when and in which ways, `schedule` what that comes to in instants, `cases` keep each
thing that is collected and all that was tried, `running` tries, `renewing` does it for many
periods at once from their wallets. Always true: a case pays an order, and an order is paid once;
nothing is tried without a consent that stands at that moment.
"""
