"""The vocabulary that both kernels share: errors, memory types, modes."""
