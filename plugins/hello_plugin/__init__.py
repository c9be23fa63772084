"""The plugin to copy when you write your own."""
