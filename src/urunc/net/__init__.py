# SPDX-License-Identifier: Apache-2.0
"""The container's network: what its namespace holds, and how a guest gets it."""
