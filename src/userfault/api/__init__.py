"""What `import userfault` exports, and the main programs of the pager's processes."""
