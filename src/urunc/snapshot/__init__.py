# SPDX-License-Identifier: Apache-2.0
"""Saved guests: what the directory of one holds, how it is written whole or not at all, read as a
stranger's, and held against this machine and this container.

It decides and it handles files; it ends no container and starts none (lifecycle/checkpoint.py,
lifecycle/restore.py). How a monitor saves and loads is the monitor's (monitors.Snapshots). Nothing
that starts an ordinary container imports it.
"""
