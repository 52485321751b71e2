"""What every command stands on: its output, its exit codes, its children, being interrupted."""
