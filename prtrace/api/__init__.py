"""The local API: Varlink on a path socket, by its server and a client without dependencies."""
