# SPDX-License-Identifier: Apache-2.0
"""The container's network: what its namespace holds, and how a guest gets it.

`look` reads a namespace, `connect` (mode dynamic) and `share` (mode shared) give it to the guest;
`attach` is the door to both. What they make are `resources` in the journal, made by `rules` for
nf_tables; `facts` is what is known, and `ipv4` arithmetic. Nothing here knows a guest or a monitor.
"""
