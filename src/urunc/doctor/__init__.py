# SPDX-License-Identifier: Apache-2.0
"""`urunc doctor`: looks at a machine, or at one container, and says what is wrong with it.

Each check returns Findings: what was looked at, how it is, and what to type where it is not well.
Looks only: makes nothing that outlives the call, and changes nothing. No verb of a container's life
imports from here, so any library will do.
"""
