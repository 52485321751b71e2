"""userfaultfd: contexts and their queues, registration, ioctls, events, fills, protection."""
