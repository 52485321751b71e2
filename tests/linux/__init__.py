"""The live kernel through the protocol: what Linux promises, and what the errors say."""
