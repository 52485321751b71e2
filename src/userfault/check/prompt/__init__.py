"""The model at a prompt: programs in words for people, run step by step, and what there is after
each (`userfault model`).
"""
