"""The companion proxy: between QEMU and the device, where a guest's PERSISTENT RESERVE passes."""
