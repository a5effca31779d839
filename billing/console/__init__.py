"""The console's pages about money, and those for which all rooms are needed: the subscriber."""
