"""The commands.  Each is a module of its own, imported only when it is called."""
