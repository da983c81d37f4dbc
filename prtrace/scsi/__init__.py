"""SCSI wire formats of persistent reservations: pure functions between bytes and values."""
