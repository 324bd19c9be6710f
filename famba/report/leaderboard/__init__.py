"""Rows of several machines as one published set, and the page that compares its methods: `famba publish`."""
