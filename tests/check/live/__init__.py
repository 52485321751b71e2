"""The running Linux through agents: what they do, how they are built, how they end."""
