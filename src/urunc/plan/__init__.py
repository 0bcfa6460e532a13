# SPDX-License-Identifier: Apache-2.0
"""What is wanted of one container: pure functions that decide, and the record of what they decided.

`prepare` is the room's door and looks by others' eyes (host, storage, network files) before it
calls `decide`; `realize` says a plan in the words of its guest and its monitor. All but `prepare`
and `host` follow from their arguments alone: no file, no clock, no kernel."""
