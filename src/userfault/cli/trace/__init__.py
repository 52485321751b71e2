"""Traces of mappings: what other policies would have made of one."""
