"""The model kernel at a prompt: `userfault model`."""
