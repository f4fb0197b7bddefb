"""What is kept: objects (bytes by digest), the ledger (what happened and who is champion), tables, code, environments, models.

Invariant: an object is durable before the ledger row that refers to it is committed, so a crash leaves garbage, never a hole.
"""
