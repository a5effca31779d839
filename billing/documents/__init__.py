"""Bills as people read them: PDF documents in Chinese and English.

A document is drawn from a frozen `content.Content`, which knows no database: `reading` makes one of
an invoice, `drawing` its bytes, the same for the same content, and `store` keeps them for ever.
"""
