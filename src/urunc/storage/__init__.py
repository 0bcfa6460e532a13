# SPDX-License-Identifier: Apache-2.0
"""What a guest's storage is made of: archives and images of root filesystems and volumes, and the
cache of those that many containers share.

`look` reads what the container has, `provide` makes what the plan says. Nothing here is imported
for a container that needs none of it; what builds an image, only where one is built.
"""
