"""Protocols of other servers, translated: their requests into rows, answers into their responses. No file, no socket."""
