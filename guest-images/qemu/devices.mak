# SPDX-License-Identifier: GPL-2.0-or-later
# The devices that are compiled: what harness/targets and harness/guest put on the command line.

CONFIG_Q35=y
CONFIG_ISA_DEBUG=y
CONFIG_PVPANIC_ISA=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_MEM=y
CONFIG_VIRTIO_BALLOON=y
