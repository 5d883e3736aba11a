"""One module for each kind of request; each exports a table `HANDLERS` from code to handler."""
