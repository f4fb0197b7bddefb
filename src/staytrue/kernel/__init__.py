"""Pure decisions and statistics: a value goes in, a value comes out.

Invariant: nothing here opens a file or a socket, reads a clock, starts a thread, logs, or draws unseeded randomness. Time and
randomness are arguments, so a replay of last March is the code that runs today. numpy is the only library.
"""
