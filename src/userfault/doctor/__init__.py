"""What this host has and lacks for each kind of client: found by trying, with the cure."""
