"""Step output: from the process to a file on disk, from there to the server, until all of it is stored."""
