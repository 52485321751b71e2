"""Images, tables and readers."""
