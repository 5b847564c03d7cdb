"""
Where metrics come from: one file per technology, imported only by those who use it.
"""
