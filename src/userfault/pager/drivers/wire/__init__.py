"""What a client and its pager say to each other, and how it travels."""
