"""The operating system under prtrace: devices and their names, SG_IO, processes, sockets."""
