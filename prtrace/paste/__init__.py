"""What people paste: bytes and lines as other programs print them, read or refused (pure).

A form that is not understood is refused with what it looks like.  Nothing is guessed: an offset
column is never data, and a fact that a line does not carry stays absent.
"""
