"""What happens, in order: fetch, train, trial, deliver, watch.

Each step reads the ledger, asks the kernel, acts, and writes down why.
"""
