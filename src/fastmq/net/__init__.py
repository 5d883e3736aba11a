"""Connections: the server's side over the reactor, the client's side over trio streams."""
