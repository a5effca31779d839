"""The carrier's console: the pages its staff works with, under /admin/, as far as they are about
subscribers, what they hold and the platform itself.

Every room has a package of this name; a page is a class in one of its modules, marked with `@page`,
and found from there: its address, its place in the sidebar and who may open it are its own. What
all pages share is here: doors.py (who is looking, and whether they may), pages.py (what a page is),
site.py (addresses, sidebar, groups).

The look is django-unfold's, the site is Django's; lists and forms are our own:
docs/decisions/0012.
"""
