"""This host: logical units and their names, initiator ports, device events, processes."""
