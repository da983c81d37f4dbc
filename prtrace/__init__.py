"""prtrace: the reservation state of every SCSI logical unit and I_T nexus of this host."""

__version__ = "1.0.0rc1"
