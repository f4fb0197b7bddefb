"""Where heavy work runs. Invariant: an engine runs one job and hands back its result; it decides nothing and records nothing."""
