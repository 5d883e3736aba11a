"""Shared helpers of the tests that start whole processes."""
