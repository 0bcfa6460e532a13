# SPDX-License-Identifier: Apache-2.0
"""Types for texts that have only a few possible values (a status, a network mode): for type
checkers alone.

Import it below `if TYPE_CHECKING`. At run time there is nothing in it, and the values are text, as
container.json has them; "" is none.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Status = Literal["creating", "created", "running", "paused", "stopped"]
    """Of a container: the specification's, and runc's `paused`."""
    NetworkMode = Literal["dynamic", "pod", "shared", "none"]
    """How a guest gets the network of its container's namespace (plan.model)."""
    Accelerator = Literal["kvm", "tcg", "none"]
    """What runs the guest's instructions: KVM, QEMU's emulation, the host's processor itself."""
    ChannelKind = Literal["virtio", "vsock", ""]
    """How urunc's init in a guest talks to the host."""
    StopOrder = Literal["channel", "acpi-power-button", "ctrl-alt-del", ""]
    """How a guest is asked to stop: by urunc's init in it, or by its machine
    (guests.STOP_REQUESTS)."""
