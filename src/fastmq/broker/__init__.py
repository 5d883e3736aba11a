"""The broker: what a request does, the tables behind it, the services beside it."""
