# SPDX-License-Identifier: Apache-2.0
"""What a guest's storage is made of: archives and images of root filesystems and volumes, and the
cache of those that many containers share.

Nothing here is imported for a container that needs none of it.
"""
