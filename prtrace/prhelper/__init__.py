"""The protocol between QEMU's pr-manager-helper and the helper that executes for it."""
