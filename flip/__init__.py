"""flip tells look-alike things apart with CLIP.

A folder of photos goes in, an honest number and a usable classifier come out. The command line is ``flip``; the
library under it is imported from its rooms: ``flip.data``, ``flip.clip``, ``flip.classify``.
"""

__version__ = "0.1.0"
