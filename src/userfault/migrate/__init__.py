"""Moving memory, and what runs on it, to another host while it runs: pre-copy, then post-copy."""
