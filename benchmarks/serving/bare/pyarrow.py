"""Stands in the way of pyarrow, which the development environment has for the tests and users of staytrue do not get with it.

pandas loads it where it is: 35 MB and 0.1 s that neither our server nor FastAPI would have on a user's machine.
"""

raise ImportError("pyarrow is hidden: see this file")
