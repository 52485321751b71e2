"""Memory types as tables: one small file a type, and nothing about a type anywhere else."""
