"""The companion proxy, and the protocol of qemu-pr-helper that it speaks on both of its sides."""
