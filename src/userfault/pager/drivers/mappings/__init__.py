"""What is served: a mapping with its contexts, its source, and whoever reads from that."""
