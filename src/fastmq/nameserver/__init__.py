"""The name server: route tables, key-value configuration, their requests."""
