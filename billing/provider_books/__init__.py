"""What a payment provider says it moved, day by day, against what we have in our books.

`layouts` says how each provider's file looks, `reading` reads one, `importing` keeps its lines as
they came, `fetching` asks those who tell a day without a file, `matching` compares all with our
payments, `differing` is what staff do about each difference, `reporting` adds a day up. Always
true: a day's lines are what matched and what differs, and no difference goes away by itself without
saying why.
"""
