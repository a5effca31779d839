"""Bills as people read them: PDF documents in Chinese and English.

A document is drawn from a frozen `content.Content`, which knows no database: `drawing` makes bytes
of it, the same for the same content.
"""
