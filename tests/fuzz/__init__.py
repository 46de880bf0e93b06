"""Files as chance and malice change them, given to every reader.

``python -m tests.fuzz --inputs 50000`` is the long form; the short one is part of the tests.
"""
