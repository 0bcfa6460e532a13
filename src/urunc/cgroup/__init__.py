# SPDX-License-Identifier: Apache-2.0
"""The container's control groups: where they are, which file gets which value, what is used.

`groups` makes, joins and finds them, by `limits` (the specification's values in the kernel's words)
and `devices` (what a monitor may open); `systemd` has them made by its D-Bus. Reads plans and
resources, and knows neither guests nor monitors.
"""
